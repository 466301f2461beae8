"""`python -m hushlm`: the same as `hushlm`."""

import sys

from hushlm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
