"""The peers that score, in turn: the same texts for all, one at work while the others rest."""

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.outcome import Figure, MeasureError, Outcome, Row, UsageError
from benchmarks.peers import machine, verdicts
from benchmarks.peers.agreement import Agreement, agreement, worst
from benchmarks.peers.seats import REFERENCE, Question, Seat, Seats
from benchmarks.peers.subjects import DTYPES, SUBJECTS, Subject
from benchmarks.peers.verdicts import Result
from benchmarks.peers.worker import WorkerError
from benchmarks.progress import Progress

GEMM_BATCHES = (8, 16)
UNKNOWN = Agreement(math.nan, math.nan)
SHORTEST = 32  # tokens, of which a query has 16


def run(options: argparse.Namespace) -> list[Outcome]:
    """One outcome, of all models and lengths. Raises MeasureError."""
    rows: list[Row] = []
    figures: list[Figure] = []
    notes = list(machine.notes(machine.cores_at_work(), os.cpu_count() or 1))
    for name in options.models:
        subject = SUBJECTS[name]
        with ExitStack() as stack:
            seats = Seats(stack, subject, options, os.environ)
            for length in _lengths(subject, options.lengths):
                results, ceilings = _measure(seats, subject, length, options)
                rows += verdicts.rows(name, length, results, ceilings)
                figures += verdicts.figures(name, length, results, ceilings)
                notes += verdicts.notes(name, length, results)
            notes += seats.notes
    if not rows:
        raise MeasureError("no peer could be measured: " + "; ".join(notes))
    words = (
        f"pairs/s, one query with {options.passages} passages at a time, {options.rounds} rounds in"
        " turn; ours through the gateway, vllm on the engine's socket, the others in process;"
        " distance and tau are to sentence-transformers' float32; int8's share is of bfloat16's"
    )
    return [Outcome("scoring", words, rows, figures, notes=list(dict.fromkeys(notes)))]


def _lengths(subject: Subject, asked: Sequence[int] | None) -> Sequence[int]:
    if asked and min(asked) < SHORTEST:
        raise UsageError(f"--lengths {min(asked)}: at least {SHORTEST} tokens are needed")
    return sorted({min(length, subject.most) for length in asked or subject.lengths})


def _measure(
    seats: Seats, subject: Subject, length: int, options: argparse.Namespace
) -> tuple[Sequence[Result], Mapping[str, float]]:
    """Every peer's results at one length, and what the matrix products alone would allow."""

    def ask(round_: int) -> Callable[[int], Question]:
        def question(number: int) -> Question:
            seed = (length * 1000 + round_) * 1000 + number
            return seats.texts.make(seed, options.passages, length)

        return question

    tokens = subject.tokens(length, options.passages)
    flop_rates: dict[str, list[float]] = {}
    words = f"{subject.name}, {length} tokens"
    with Progress(words, (options.rounds + 1) * len(seats.each), " turns") as progress:
        for seat in list(seats.each):
            _guarded(seats, seat, partial(seat.begin, ask(0)(0)))
            progress.step()
        for number in range(1, options.rounds + 1):
            for seat in _turned(seats.each, number):
                _guarded(seats, seat, partial(seat.turn, ask(number), options.seconds))
                progress.step()
            try:
                for dtype, rate in _products(seats, subject, length).items():
                    flop_rates.setdefault(dtype, []).append(rate)
            except WorkerError as error:
                seats.notes.append(f"the matrix products failed: {error}")
                seats.gemm = None
    # A ceiling: the best that was seen, not the middle.
    ceilings = {d: max(rates) / subject.flops(tokens) for d, rates in flop_rates.items()}
    return [_result(seat, seats, subject) for seat in seats.each], ceilings


def _turned(seats: Sequence[Seat], number: int) -> Sequence[Seat]:
    """Another one begins each round, so that nobody always follows the same."""
    first = number % max(1, len(seats))
    return [*seats[first:], *seats[:first]]


def _guarded(seats: Seats, seat: Seat, act: Callable[[], None]) -> None:
    """One peer at work. One that fails is told of, and leaves the table."""
    seat.scorer.thaw()
    try:
        act()
    except WorkerError as error:
        seats.notes.append(f"{seat.peer} {seat.dtype} failed: {error}")
        seats.each.remove(seat)
    finally:
        seat.scorer.freeze()


def _products(seats: Seats, subject: Subject, length: int) -> Mapping[str, float]:
    """FLOP/s of each type in this model's matrix products, the best of several batch sizes."""
    if seats.gemm is None:
        return {}
    found = {}
    seats.gemm.thaw()
    for dtype in DTYPES:
        rates = []
        for batch in GEMM_BATCHES:
            tokens = batch * length
            asked = {"tokens": tokens, "shapes": subject.maps(), "dtype": dtype}
            seconds = seats.gemm.ask(cmd="gemm", **asked)["seconds"]
            rates.append(subject.flops(tokens) / subject.layers / seconds)
        found[dtype] = max(rates)
    seats.gemm.freeze()
    return found


def _result(seat: Seat, seats: Seats, subject: Subject) -> Result:
    reference = next((one for one in seats.each if (one.peer, one.dtype) == REFERENCE), None)
    pairs = zip(seat.raw, reference.raw, strict=True) if reference else ()
    found = [agreement(raw, wanted, subject.kind) for raw, wanted in pairs]
    told = worst(found) if found else UNKNOWN
    setting = "all" if seat.peer == "flashrank" else seat.setting
    return Result(seat.peer, seat.dtype, seat.rates, told, setting)
