"""Ranks eight passages through all three clients: `python -m clients.examples.eight_passages`."""

import sys

from clients.__main__ import main
from clients.examples import EIGHT_PASSAGES, QUERY

if __name__ == "__main__":
    sys.exit(main(["ask", *sys.argv[1:], "--", QUERY, *EIGHT_PASSAGES]))
