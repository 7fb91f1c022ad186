"""What runs inside the peers' environments: standard library and the peer's own packages alone.

The environment's Python starts each module as `python -m benchmarks.peers.workers.NAME JSON`, with
what it loads as JSON. It answers lines of JSON on standard input (`answering.py`).
"""
