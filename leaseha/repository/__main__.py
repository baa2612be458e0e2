"""`python -m leaseha.repository`: the child that the agent starts; not for people."""

import sys

from leaseha.repository.process import main

if __name__ == "__main__":
    sys.exit(main())
