"""`python -m gapcell` is the command `gapcell`."""

import sys

from gapcell.cli import main

sys.exit(main())
