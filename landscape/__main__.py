"""``python -m landscape`` is ``landscape-probe``."""

import sys

from landscape.cli.probe import main

if __name__ == "__main__":
    sys.exit(main())
