"""The story: search, agree on a price, rent, wait, verify; or take the next offer."""

import hashlib
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from deploy.vast.bundle import Bundle
from deploy.vast.desk import Desk
from deploy.vast.errors import Gone, HostFailed, Lost, NoMachine, StillThere
from deploy.vast.notes import Deployment
from deploy.vast.offers import PLANNED_HOURS, SHOWN, NoneFits, Quote, choose, table
from deploy.vast.plan import (
    DEFAULT_PORT,
    Clause,
    Contents,
    Request,
    clauses,
    label_for,
    packed,
    request_for,
)
from deploy.vast.ready import Ready, make_ready
from deploy.vast.rental import Rental, command, destroy
from deploy.vast.tunnel import free_port
from serve.spec import Hardware

BOOT = Path(__file__).with_name("boot.sh")
MOST_GONE = 10  # offers that others take while we look


@dataclass(frozen=True)
class Wish:
    """What a user wants. Prices are in dollars, an hour or in all; times in seconds.

    `max_price` is an agreement too: no offer up to it is asked about. `max_waste` bounds what
    hosts that fail may cost together.
    """

    model: str  # what clients may call it
    needs: Hardware
    bundle: Bundle
    max_price: float | None = None
    yes: bool = False
    ttl_s: float | None = None
    tunnel: bool = False
    port: int = DEFAULT_PORT
    local_port: int | None = None  # of the tunnel; unset: a free one
    identity: Path | None = None  # for SSH
    key: str | None = field(default=None, repr=False)  # of the endpoint; unset: a new one
    hf_token: str | None = field(default=None, repr=False)
    timeout_s: float = 1200.0  # from renting to ranking
    tries: int = 3
    max_waste: float = 1.0

    @property
    def hours(self) -> float:
        """For how long the machine will work, as far as anyone says."""
        return self.ttl_s / 3600 if self.ttl_s else PLANNED_HOURS

    def requirements(self, most: float | None = None) -> tuple[Clause, ...]:
        """Of an offer; `most` dollars an hour, if that is agreed."""
        return clauses(self.needs, self.max_price if most is None else most, self.hours * 3600)


@dataclass
class Launch:
    """One launch. `ask` puts a question to the user and gives the answer."""

    desk: Desk
    wish: Wish
    ask: Callable[[str], bool]
    tell: Callable[[Ready], None]
    id: str = field(default_factory=lambda: secrets.token_hex(3))

    def up(self) -> None:
        """Raises DeployError; nothing of this launch is left then that it does not name."""
        quotes = self.quotes(self.wish.requirements())
        self.desk.show(table(quotes))
        most = self._agree(quotes)
        tally = _Tally(self.wish)
        kept = False
        try:
            while not kept and not tally.is_enough:
                quote = next((q for q in quotes if q.machine not in tally.tried), None)
                if quote is None or quote.hourly > most:
                    quotes = self.quotes(self.wish.requirements(most), tally.tried)
                else:
                    kept = self._try(quote, tally, most)
        finally:
            for label in tally.lost:
                self._sweep(label)
        if not kept:
            raise NoMachine(f"{tally}: nothing runs. Try again later, or with more --tries")

    def _try(self, quote: Quote, tally: "_Tally", most: float) -> bool:
        """Whether something came of an offer; if not, another may do."""
        began = self.desk.clock()
        try:
            self._attempt(quote, f"{self.id}-{tally.take(quote)}", most)
            return True
        except Gone as error:
            tally.gone += 1
            self.desk.show(f"offer {quote.id} is gone ({error}): taking the next")
        except HostFailed as error:
            tally.fail(quote, self.desk.clock() - began)
            if isinstance(error, Lost):
                tally.lost.append(error.label)
            self.desk.show(f"machine {quote.machine} failed: {error}")
        return False

    def quotes(self, requirements: tuple[Clause, ...], tried: Collection[int] = ()) -> list[Quote]:
        """What fits, the best first. Raises NoMachine, saying what each requirement ruled out."""
        needs, hours = self.wish.needs, self.wish.hours
        for search in (requirements, ()):  # Vast.ai tells what was ruled out only if it ruled none
            offers = self.desk.vast.search(search, needs.disk_gib)
            try:
                return choose(offers, requirements, needs, hours=hours, excluded=tried)
            except NoneFits as error:
                none_fits = error
        raise NoMachine(str(none_fits)) from none_fits

    def _agree(self, quotes: list[Quote]) -> float:
        """The most that an hour may cost, as the user agrees. Raises NoMachine."""
        if self.wish.max_price is not None:
            return self.wish.max_price
        most = max(quote.hourly for quote in quotes[:SHOWN])
        question = f"Rent the first, or if it fails the next, for at most ${most:.3f} an hour?"
        if self.wish.yes or self.ask(question):
            return most
        raise NoMachine("nothing was rented: answer y, or give --yes or --max-price X")

    def _attempt(self, quote: Quote, attempt: str, most: float) -> None:
        """Rents one offer and makes it ready. Raises Gone and HostFailed when another may do."""
        desk, wish = self.desk, self.wish
        key = wish.key or new_key()
        request = request_of(wish, attempt, key)
        deployment = Deployment(
            label=request.label,
            model=wish.model,
            port=wish.port,
            timeout_s=wish.timeout_s,
            hourly=quote.hourly,
            local_port=(wish.local_port or free_port()) if wish.tunnel else None,
            identity=str(wish.identity) if wish.identity else None,
            until=desk.clock() + wish.ttl_s if wish.ttl_s else None,
        )
        rental = Rental(desk.vast, request, desk.show)
        try:
            with rental:
                desk.notes.begin(deployment, key, wish.bundle.content)
                desk.show(f"renting offer {quote.id}, {quote.name} for ${quote.hourly:.3f} an hour")
                created = rental.create(quote.id)
                deployment = desk.notes.write(deployment, instance=created)
                desk.show(f"instance {created}, labelled {request.label}")
                self.tell(make_ready(desk, deployment, most=most))
                rental.keep()  # not before the user knows of it
        finally:
            rental.end()  # once more, should a signal have come in just as it began
            if rental.state == "nothing":  # else what is known of it is needed
                desk.notes.forget(request.label)

    def _sweep(self, label: str) -> None:
        """Looks once more for what an unanswered creation may have made, and destroys it."""
        desk = self.desk
        desk.show(f"looking once more for what was never answered for, labelled {label}")
        try:
            if destroy(desk.vast, label, None, desk.show):
                desk.notes.forget(label)
                return
        except StillThere as error:
            desk.show(f"error: {error}")
        desk.show(f"should it show later, `{command('destroy', label)}` ends it")


@dataclass
class _Tally:
    """What one launch has tried, and what that has cost."""

    wish: Wish
    tried: set[int] = field(default_factory=set)  # machines
    gone: int = 0
    failed: int = 0
    lost: list[str] = field(default_factory=list)  # labels of what may show and was not found
    waste: float = 0.0  # dollars

    @property
    def is_enough(self) -> bool:
        return (
            self.failed >= self.wish.tries
            or self.gone >= MOST_GONE
            or self.waste > self.wish.max_waste
        )

    def take(self, quote: Quote) -> int:
        """Counts an attempt: its number."""
        self.tried.add(quote.machine)
        return len(self.tried)

    def fail(self, quote: Quote, seconds: float) -> None:
        self.failed += 1
        self.waste += seconds / 3600 * quote.hourly + quote.download

    def __str__(self) -> str:
        return f"{self.failed} machines failed, for about ${self.waste:.2f}, {self.gone} were gone"


def request_of(wish: Wish, attempt: str, key: str) -> Request:
    """What Vast.ai is asked for in one attempt, whose name no other has."""
    contents = Contents(
        model=wish.bundle.model,
        key=hashlib.sha256(key.encode()).hexdigest(),
        bundle=wish.bundle.digest,
        port=wish.port,
        tunnel=wish.tunnel,
        ttl_s=wish.ttl_s,
        hf_token=wish.hf_token,
    )
    label = label_for(wish.model, attempt)
    return request_for(wish.needs, contents, label=label, script=packed(BOOT.read_text()))


def new_key() -> str:
    """An API key that nobody guesses."""
    return "rk-" + secrets.token_urlsafe(32)
