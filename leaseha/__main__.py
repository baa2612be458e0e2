"""`python -m leaseha` is the same as the console script `leaseha`."""

import sys

from leaseha.cli import main

if __name__ == "__main__":
    sys.exit(main())
