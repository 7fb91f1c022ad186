"""Pure: runs of a load test as rows, notes and charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load.latency import SHARES, UNSENT, Run, classes, percentile
from benchmarks.outcome import Chart, Point, Row

LATE_MS = 10.0  # of the sender itself, that is told
POINTS = 120  # of a chart's line
TOLD = 120  # characters of a bad answer


@dataclass(frozen=True)
class Load:
    """One load and its run: `rate` requests a second, due when they are, or of `clients`."""

    run: Run
    rate: float | None = None
    clients: int = 0

    @property
    def words(self) -> str:
        if self.rate is not None:
            return f"{self.rate:g}/s"
        return f"{self.clients} client" + ("s" if self.clients > 1 else "")

    @property
    def size(self) -> float:
        return self.clients if self.rate is None else self.rate


def rows(loads: Sequence[Load]) -> list[Row]:
    """A row of all requests of each load, and one of each class of passages, if there are more."""
    return [
        _row(load.words, name, run)
        for load in loads
        for name, run in {"all": load.run, **classes(load.run)}.items()
    ]


def _row(words: str, name: str, run: Run) -> Row:
    return {
        "load": words,
        "passages": name,
        "requests": len(run.shots),
        "failed": len(run.shots) - len(run.good),
        "req/s": round(run.rate, 2),
        "pairs/s": round(run.pair_rate, 1),
        **{f"{name} ms": rounded(run.quantile(share)) for name, share in SHARES.items()},
    }


def rounded(value: float) -> float | str:
    """Three digits or more; a dash where there is no value."""
    if not math.isfinite(value):
        return "-"
    return round(value, max(0, 2 - math.floor(math.log10(value)))) if value > 0 else 0.0


def notes(loads: Sequence[Load]) -> list[str]:
    """How the figures are to be read, and what was not well."""
    found = [_how(loads)]
    for load in loads:
        found += [f"{load.words}: {words}" for words in _not_well(load.run)]
    return found


def _how(loads: Sequence[Load]) -> str:
    if loads[0].rate is not None:
        return (
            "Open loop: requests come when they are due, however slow the server is, and a latency"
            " counts from then, so that waiting behind a stall is in it."
        )
    return (
        "Closed loop: each client asks again once it is answered, so a slow server is asked less"
        " often, and the latencies are service times under that many clients. What users of a given"
        " rate would see is what --rate shows."
    )


def _not_well(run: Run) -> list[str]:
    found = []
    if run.failures:
        found.append(
            f"{sum(run.failures.values())} of {len(run.shots)} requests failed, which are in no"
            f" rate and no percentile: {failures(run)}"
        )
    if unsent := run.failures.get(UNSENT, 0):
        found.append(
            f"{unsent} requests were not sent, as many were unanswered as --in-flight allows: the"
            " server is slower than this rate"
        )
    late_ms = percentile(sorted(1000 * (shot.sent - shot.due) for shot in run.good), 0.99)
    if late_ms > LATE_MS:
        found.append(
            f"the sender itself was up to {late_ms:.0f} ms late (p99), which is in the latencies:"
            " its processor is busy"
        )
    if cached := sum(shot.cached for shot in run.good):
        found.append(f"{cached / run.pairs:.1%} of the pairs came from the server's cache")
    return found


def failures(run: Run) -> str:
    """What came instead of right answers, how often, and when to come again by their word."""
    words = []
    for outcome, number in run.failures.items():
        bad = [shot for shot in run.shots if shot.outcome == outcome]
        waits = sorted({shot.retry_after for shot in bad if shot.retry_after}, key=_as_number)
        again = f", Retry-After {waits[0]} to {waits[-1]}" if waits else ""
        told = " ".join(bad[0].told[:TOLD].split())
        words.append(f"{number} x {outcome}{again}" + (f" ({told})" if told else ""))
    return "; ".join(words)


def _as_number(text: str) -> tuple[float, str]:
    return (float(text) if text.isdecimal() else math.inf, text)


def charts(loads: Sequence[Load]) -> list[Chart]:
    """Of one load its percentiles and its course; of several how they grow with the load."""
    if len(loads) > 1:
        return _grown(loads)
    run = loads[0].run
    if not run.good:
        return []
    return [
        Chart(
            "Latency by percentile",
            "one request in so many is slower",
            "ms",
            {name: _tail(each) for name, each in _named(run).items() if each.good},
            log_x=True,
            log_y=True,
        ),
        Chart("Latency over time", "seconds", "ms", _course(run)),
    ]


def _named(run: Run) -> Mapping[str, Run]:
    return {"all": run, **{f"{name} passages": each for name, each in classes(run).items()}}


def _grown(loads: Sequence[Load]) -> list[Chart]:
    x = "clients" if loads[0].rate is None else "requests due per second"
    answered = [load for load in loads if load.run.good]
    latencies: dict[str, Sequence[Point]] = {
        name: [(load.size, load.run.quantile(SHARES[name])) for load in answered]
        for name in ("p50", "p95", "p99", "max")
    }
    rates: dict[str, Sequence[Point]] = {
        "answered rightly": [(load.size, load.run.rate) for load in loads]
    }
    if loads[0].rate is not None:
        rates["due"] = [(load.size, load.size) for load in loads]
    pairs = {"pairs": [(load.size, load.run.pair_rate) for load in loads]}
    return [
        Chart("Latency", x, "ms", latencies, log_y=True),
        Chart("Right answers", x, "requests per second", rates),
        Chart("Pairs scored", x, "pairs per second", pairs),
    ]


def _tail(run: Run) -> Sequence[Point]:
    """Latencies by 1/(1-share), from the median to the slowest of all."""
    number = len(run.good)
    last = max(2.0, float(number))
    steps = [2.0 * (last / 2.0) ** (step / POINTS) for step in range(POINTS + 1)]
    return [(step, run.quantile(1 - 1 / step)) for step in steps[:-1]] + [(last, run.quantile(1))]


def _course(run: Run) -> Mapping[str, Sequence[Point]]:
    """The median and the slowest of each part of the run, by when the requests were due."""
    parts_wanted = max(1, min(POINTS, len(run.good) // 5))
    step = max(shot.due for shot in run.good) / parts_wanted or 1.0
    parts: dict[int, list[float]] = {}
    for shot in run.good:
        parts.setdefault(int(shot.due / step), []).append(1000 * shot.latency_s)
    ordered = {(part + 0.5) * step: sorted(each) for part, each in sorted(parts.items())}
    return {
        "slowest": [(at, each[-1]) for at, each in ordered.items()],
        "median": [(at, percentile(each, 0.5)) for at, each in ordered.items()],
    }


def details(loads: Sequence[Load]) -> Mapping[str, object]:
    """What programs may want beside the rows: unrounded, and failures by what they were."""
    return {
        load.words: {
            "seconds": load.run.seconds,
            "latencies_ms": {
                name: value
                for name, share in SHARES.items()
                if math.isfinite(value := load.run.quantile(share))
            },
            "failures": load.run.failures,
            "retry_after": sorted({s.retry_after for s in load.run.shots if s.retry_after}),
            "cached_pairs": sum(shot.cached for shot in load.run.good),
        }
        for load in loads
    }
