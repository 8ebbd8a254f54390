"""`python -m benchmarks.detect`."""

import sys

from benchmarks.detection.study import main

if __name__ == "__main__":
    sys.exit(main())
