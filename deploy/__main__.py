"""The command line: `python -m deploy vast up MODEL`, and what ends it again."""

import sys

from deploy.vast.command import main

if __name__ == "__main__":
    sys.exit(main())
