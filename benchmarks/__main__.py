"""`python -m benchmarks` is `python -m benchmarks.layers`."""

import sys

from benchmarks.layers import main

if __name__ == "__main__":
    sys.exit(main())
