"""ConvLSTM and ConvGRU layers for sequences with gaps.

`gapcell.torch` holds the PyTorch layers, `gapcell.reference` the float64 NumPy oracle, `gapcell.masks` the mask
algebra, and `gapcell.detect` anomaly detection on event tables. Importing `gapcell` imports no framework.
"""

from gapcell import masks
from gapcell.spec import Spec

__all__ = ["Spec", "__version__", "masks"]
__version__ = "0.1.0"
