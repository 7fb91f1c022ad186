"""Ranks four passages through all three clients: `python -m clients.examples.four_passages`."""

import sys

from clients.__main__ import main
from clients.examples import FOUR_PASSAGES, QUERY

if __name__ == "__main__":
    sys.exit(main(["ask", *sys.argv[1:], "--", QUERY, *FOUR_PASSAGES]))
