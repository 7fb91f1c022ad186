"""`python -m benchmarks [all|vllm|alone|startup]`: tables for people, JSON as the last line."""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence

import psutil

from benchmarks.gateway import over_nothing, over_vllm
from benchmarks.startup import startup

Rows = list[dict[str, object]]
MEASUREMENTS: Mapping[str, tuple[str, Callable[[], Rows]]] = {
    "startup": ("from `python -m serve up` to the first score, embedded model", startup),
    "alone": ("the gateway over an engine that takes no time", over_nothing),
    "vllm": ("the gateway against direct vLLM, embedded model, side by side", over_vllm),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=("all", *MEASUREMENTS))
    chosen = parser.parse_args(arguments).what
    results = {}
    for name, (title, measure) in MEASUREMENTS.items():
        if chosen in ("all", name):
            print(f"\n{name}: {title}", flush=True)
            results[name] = measure()
            print(table(results[name]), flush=True)
    machine = (
        f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"
    )
    print(json.dumps({"machine": machine, **results}))
    return 0


def table(rows: Rows) -> str:
    """Rows of the same keys as aligned columns."""
    columns = [[key, *(str(row[key]) for row in rows)] for key in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
