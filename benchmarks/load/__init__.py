"""Load on any server with a rerank route, and what it measures.

`texts.py` (what is asked), `arrivals.py` (when), `targets.py` (whom, in which dialect) and
`latency.py` (what came of it) are pure. `generator.py` sends; `results.py` makes rows and charts of
runs; `options.py` and `command.py` are the command line.
"""
