"""How well `gapcell.detect` finds what is anomalous, beside simpler detectors: `python -m benchmarks.detect`."""
