"""PyTorch's own threads, for the CPU kernel to run on.

After an operator they spin for a while; threads of the kernel's own would have to share the cores with them.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

__all__ = ["parallel"]


def parallel() -> int:
    """The address of the function that runs work on PyTorch's OpenMP threads; 0 where there is none.

    In a forked child they are gone, and OpenMP would wait for them for ever.
    """
    return _found() if os.getpid() == _PROCESS else 0


_PROCESS = os.getpid()


@functools.cache
def _found() -> int:
    library = next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))), None)
    if library is None or not torch.backends.openmp.is_available():
        return 0
    try:
        # Found by way of PyTorch's own library, this is PyTorch's OpenMP and not another one of the process.
        function = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0
