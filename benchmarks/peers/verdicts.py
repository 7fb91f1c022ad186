"""Pure: rows and figures of what the peers did."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.outcome import Figure, Row
from benchmarks.peers.agreement import Agreement
from benchmarks.peers.subjects import DTYPES

OURS = "ours"
BARE = "vllm"
RIVALS = ("sentence-transformers", "infinity")
Ceilings = Mapping[str, float]  # type → pairs/s if all time went into its matrix products


@dataclass(frozen=True)
class Result:
    """What one peer did with one model at one length: `rates` are pairs/s, round by round."""

    peer: str
    dtype: str
    rates: Sequence[float]
    agreement: Agreement
    setting: object = None

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def agrees(self) -> bool:
        return self.agreement.verdict(self.dtype) == "yes"


def quartiles(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Of our rates over theirs, round by round: the lower quartile, the median, the upper one."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, middle, high


def share(result: Result, ceilings: Ceilings) -> float:
    """Of what the machine's matrix products allow; int8's is of bfloat16's, as none is measured."""
    ceiling = ceilings.get(result.dtype, ceilings.get("bfloat16", 0.0))
    return result.rate / ceiling if ceiling else 0.0


def own(results: Sequence[Result], dtype: str) -> Result | None:
    """Ours in that type, or our fastest where we have none of it."""
    ours = [result for result in results if result.peer == OURS]
    same = [result for result in ours if result.dtype == dtype]
    return max(same or ours, key=lambda result: result.rate, default=None)


def rows(model: str, length: int, results: Sequence[Result], ceilings: Ceilings) -> list[Row]:
    """One for each peer, the fastest last, then what the matrix products alone would take."""
    found: list[Row] = []
    for one in sorted(results, key=lambda result: (result.dtype, result.rate)):
        ours = own(results, one.dtype)
        low, middle, high = quartiles(ours.rates, one.rates) if ours else (0.0, 0.0, 0.0)
        found.append(
            {
                "model": model,
                "tokens": length,
                "type": one.dtype,
                "peer": one.peer,
                "batch": "-" if one.setting is None else one.setting,
                "pairs/s": f"{one.rate:.2f}",
                "ours/peer": f"{middle:.3f}",
                "quartiles": f"{low:.3f}/{high:.3f}",
                "of GEMM": f"{share(one, ceilings):.0%}",
                "distance": f"{one.agreement.distance:.1e}",
                "tau": f"{one.agreement.tau:.3f}",
                "agrees": one.agreement.verdict(one.dtype),
            }
        )
    blank = {key: "-" for key in found[0]} if found else {}
    for dtype, rate in ceilings.items():
        row = {"model": model, "tokens": length, "type": dtype, "peer": "(GEMM alone)"}
        found.append({**blank, **row, "pairs/s": f"{rate:.2f}", "of GEMM": "100%"})
    return found


def figures(model: str, length: int, results: Sequence[Result], ceilings: Ceilings) -> list[Figure]:
    """Ours over the best rival that agrees, type by type."""
    found = []
    for dtype in DTYPES:
        ours = next((r for r in results if (r.peer, r.dtype) == (OURS, dtype)), None)
        rivals = [r for r in results if r.peer in RIVALS and r.dtype == dtype and r.agrees]
        if ours is None or not rivals or ours.agreement.verdict(dtype) == "unknown":
            continue
        best = max(rivals, key=lambda result: result.rate)
        value = quartiles(ours.rates, best.rates)[1] if ours.agrees else 0.0
        name = f"{model}, {length} tokens, {dtype}: pairs/s, ours / best of {' and '.join(RIVALS)}"
        why = _why(ours, best, results, ceilings) if value < 1 else ""
        found.append(Figure(name, round(value, 3), 1.0, why=why))
    return found


def _why(ours: Result, best: Result, results: Sequence[Result], ceilings: Ceilings) -> str:
    if not ours.agrees:
        return f"our scores are {ours.agreement.distance:.1e} off, so that their speed is no matter"
    words = (
        f"{best.peer} has {share(best, ceilings):.0%} of what the machine's matrix products allow,"
        f" ours {share(ours, ceilings):.0%}"
    )
    bare = next((r for r in results if (r.peer, r.dtype) == (BARE, ours.dtype)), None)
    return words + (f", vLLM without the gateway {share(bare, ceilings):.0%}" if bare else "")


def notes(model: str, length: int, results: Sequence[Result]) -> list[str]:
    """What no figure judges: int8, and scores that are off."""
    if any(one.agreement.verdict(one.dtype) == "unknown" for one in results):
        return [f"{model}, {length} tokens: no scores to compare with, so that nothing counts"]
    found = []
    for one in results:
        ours = own(results, one.dtype)
        if one.dtype == "int8" and ours:
            found.append(
                f"{model}, {length} tokens: {one.peer} int8 does {one.rate / ours.rate:.2f} of ours"
                f" {ours.dtype}; its scores are up to {one.agreement.distance:.2g} off float32's"
            )
        elif one.agreement.verdict(one.dtype) == "NO":
            found.append(
                f"{model}, {length} tokens: {one.peer} {one.dtype} is"
                f" {one.agreement.distance:.2g} off and does not count"
            )
    return found
