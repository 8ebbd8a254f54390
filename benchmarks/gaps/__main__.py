"""`python -m benchmarks.gaps`."""

import sys

from benchmarks.gaps.study import main

if __name__ == "__main__":
    sys.exit(main())
