"""`python -m tokenstorm`."""

import sys

from tokenstorm.cli import main

if __name__ == "__main__":
    sys.exit(main())
