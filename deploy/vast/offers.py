"""Pure: which offer of Vast.ai's is the best for a model, and why."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from deploy.vast.plan import IMAGE_GB, Clause, number
from serve.spec import Hardware

SHOWN = 5  # offers, of those that fit
PLANNED_HOURS = 8.0  # of work, where nobody says how long
START_HOURS = 0.05  # from a fetched image to the first score: about three minutes
# What an offer must say in plain numbers for its cost to be known, and where they lie.
PLAIN = "a price and a speed that can be"
RANGES: Mapping[str, tuple[float, float]] = {
    "dph_total": (0, math.inf),
    "inet_down_cost": (0, math.inf),
    "inet_down": (1e-3, math.inf),
    "reliability": (1e-3, 1),
}
NEW = "not tried before"
Offer = Mapping[str, object]


@dataclass(frozen=True)
class Quote:
    """An offer with what it comes to: dollars an hour of rent, dollars and hours before it works,
    and dollars for an hour of work, weighed by how reliable the host is."""

    offer: Offer
    hourly: float
    download: float
    start_hours: float
    working_hour: float

    @property
    def id(self) -> int:
        return int(_number(self.offer, "id"))

    @property
    def machine(self) -> int:
        return int(_number(self.offer, "machine_id"))

    @property
    def name(self) -> str:
        """The GPU, for people."""
        return str(self.offer.get("gpu_name") or "GPU")


class NoneFits(Exception):
    """No offer meets every requirement. Says which one ruled out how many.

    `ruled_out` is how many offers fail each requirement, `alone` how many fail that one only.
    """

    def __init__(self, offers: int, ruled_out: Mapping[str, int], alone: Mapping[str, int]) -> None:
        super().__init__(offers, ruled_out, alone)
        self.offers, self.ruled_out, self.alone = offers, ruled_out, alone

    def __str__(self) -> str:
        if not self.offers:
            return "Vast.ai has no offers at all for these requirements: try again later"
        most = sorted(self.ruled_out.items(), key=lambda item: -item[1])
        said = ", ".join(f"{words}: {count}" for words, count in most if count)
        words = f"none of {self.offers} offers fits; ruled out by {said}"
        nearly = max(self.alone, key=lambda word: self.alone[word], default=None)
        if nearly is None or not self.alone[nearly]:
            return words
        return f"{words}; without «{nearly}» {self.alone[nearly]} would do"


def quote(offer: Offer, needs: Hardware, hours: float = PLANNED_HOURS) -> Quote:
    """What an hour of work costs on a plain offer, used for `hours` hours once it works.

    Paid for are those hours and the start before them; the image and the model are fetched once,
    at the offer's own price and speed. A host that is up 98 % of the time gives 0.98 hours of work
    for an hour's price.
    """
    gigabytes = IMAGE_GB + needs.download_gb
    hourly = _number(offer, "dph_total")
    download = gigabytes * _number(offer, "inet_down_cost")
    start_hours = START_HOURS + gigabytes * 8000 / _number(offer, "inet_down") / 3600
    total = hourly * (hours + start_hours) + download
    working_hours = hours * _number(offer, "reliability")
    return Quote(offer, hourly, download, start_hours, total / working_hours)


def choose(
    offers: Sequence[Offer],
    requirements: Sequence[Clause],
    needs: Hardware,
    *,
    hours: float = PLANNED_HOURS,
    excluded: Collection[int] = (),
) -> list[Quote]:
    """The offers that meet every requirement, the cheapest hour of work first; at least one.

    `excluded` are machines that were tried before. An offer whose cost cannot be known is none.
    Raises NoneFits.
    """
    fits = [offer for offer in offers if not _failures(offer, requirements, excluded)]
    if not fits:
        raise _none_fits(offers, requirements, excluded)
    quotes = [quote(offer, needs, hours) for offer in fits]
    return sorted(quotes, key=lambda q: (q.working_hour, q.id))


def table(quotes: Sequence[Quote], most: int = SHOWN) -> str:
    """The best offers for people, the first one chosen."""
    head = ("", "offer", "GPU", "memory", "$/hour", "download", "starts in", "up", "$/working hour")
    rows = [
        (
            "→" if place == 0 else "",
            str(q.id),
            q.name,
            f"{_number(q.offer, 'gpu_ram') / 1000:.0f} GB",
            f"{q.hourly:.3f}",
            f"${q.download:.2f}",
            f"{q.start_hours * 60:.0f} min",
            f"{_number(q.offer, 'reliability'):.1%}",
            f"{q.working_hour:.3f}",
        )
        for place, q in enumerate(quotes[:most])
    ]
    more = len(quotes) - most
    return aligned([head, *rows]) + (f"\n   and {more} more that fit" if more > 0 else "")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _failures(offer: Offer, requirements: Sequence[Clause], excluded: Collection[int]) -> list[str]:
    """What each requirement that an offer fails says."""
    failed = [clause.words for clause in requirements if not clause.holds(offer)]
    if not _is_plain(offer):
        failed.append(PLAIN)
    if number(offer, "machine_id") in excluded:
        failed.append(NEW)
    return failed


def _is_plain(offer: Offer) -> bool:
    """Whether it says what it costs, and which it is."""
    said = [(number(offer, key), low, high) for key, (low, high) in RANGES.items()]
    return all(value is not None and low <= value <= high for value, low, high in said) and all(
        isinstance(offer.get(key), int) and _number(offer, key) > 0 for key in ("id", "machine_id")
    )


def _none_fits(
    offers: Sequence[Offer], requirements: Sequence[Clause], excluded: Collection[int]
) -> NoneFits:
    ruled_out = dict.fromkeys([*(clause.words for clause in requirements), PLAIN, NEW], 0)
    alone = dict(ruled_out)
    for offer in offers:
        failed = _failures(offer, requirements, excluded)
        for words in failed:
            ruled_out[words] += 1
        if len(failed) == 1:
            alone[failed[0]] += 1
    return NoneFits(len(offers), ruled_out, alone)


def _number(offer: Offer, field: str) -> float:
    """A number of an offer; 0 where it has none."""
    return number(offer, field) or 0.0
