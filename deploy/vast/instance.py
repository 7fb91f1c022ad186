"""Pure: what Vast.ai says of an instance, and what its start script says in the log."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.vast.plan import number

DEAD = frozenset({"exited", "unknown", "offline", "frozen"})
_FAILED = re.compile(r"\berror\b|\bfailed\b|oci runtime|permission denied", re.IGNORECASE)
# A line of the start script's own, behind Docker's time stamp or nothing.
_STAMP = r"^(?:\d{4}-\d\d-\d\dT\S+ )?"
_OWN = _STAMP + "rerank-serve: "
_CLOCK = re.compile(_STAMP + r"rerank-serve clock: cannot end it: (.+?)\s*$", re.MULTILINE)
_SAID = re.compile(_OWN + r"(.+?)\s*$", re.MULTILINE)
_BEGUN = re.compile(
    _OWN + r"fingerprint (?P<fingerprint>sha256:[0-9a-f]{64}) run (?P<run>\d+)\s*$", re.MULTILINE
)
_ENDED = re.compile(r"ended with status (\d+)")
WAITING, STARTING = "waiting for the program", "starting"
SSH_PORT = 22

Address = tuple[str, int]


@dataclass(frozen=True)
class Instance:
    """One rented machine. `hourly` is in dollars, `started` in seconds since 1970."""

    id: int
    label: str
    machine: int
    status: str  # of Vast.ai: created, loading, running, exited, …; empty before the first
    intended: str
    message: str
    host: str
    ports: Mapping[str, int]  # `8443/tcp` → the port outside
    hourly: float
    started: float

    def address(self, port: int) -> Address | None:
        """Where a TCP port of the inside is reached from outside, once it is."""
        outer = self.ports.get(f"{port}/tcp")
        return (self.host, outer) if outer and self.host else None

    def cost(self, now: float) -> float:
        """Dollars of rent so far; none of what has not begun."""
        return max(now - self.started, 0) / 3600 * self.hourly if self.started else 0.0


def from_row(row: Mapping[str, object]) -> Instance:
    """An instance from a row of the API, in which anything may be null."""

    def text(key: str) -> str:
        return str(row.get(key) or "").strip()

    def amount(key: str) -> float:
        return max(number(row, key) or 0.0, 0.0)

    return Instance(
        id=int(amount("id")),
        label=text("label"),
        machine=int(amount("machine_id")),
        status=text("actual_status"),
        intended=text("intended_status"),
        message=_plain(text("status_msg")),
        host=text("public_ipaddr"),
        ports=_ports(row.get("ports")),
        hourly=amount("dph_total"),
        started=amount("start_date"),
    )


def _ports(given: object) -> dict[str, int]:
    """`{"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "41610"}]}` as `{"8000/tcp": 41610}`.

    The first place counts: Docker names IPv4's before IPv6's, which may have another port.
    """
    found: dict[str, int] = {}
    for inner, places in given.items() if isinstance(given, Mapping) else ():
        for place in places if isinstance(places, list) else ():
            outer = str(place.get("HostPort")) if isinstance(place, Mapping) else ""
            if outer.isascii() and outer.isdigit():
                found.setdefault(str(inner), int(outer))
    return found


def failure(instance: Instance) -> str | None:
    """Why an instance will never run, as far as Vast.ai says, else None."""
    if instance.status in DEAD:
        return f"its status is {instance.status}" + _because(instance.message)
    if instance.intended == "stopped":
        return "Vast.ai stops it" + _because(instance.message)
    if instance.status != "running" and _FAILED.search(instance.message):
        return f"its host says: {instance.message[:300]}"
    return None


def _because(message: str) -> str:
    return f" ({message[:300]})" if message else ""


@dataclass(frozen=True)
class Said:
    """What the latest run of the start script has said: of its certificate, its step, its end."""

    fingerprint: str | None = None
    run: str = ""  # which run it is
    step: str = ""
    ended: int | None = None
    last_line: str = ""  # what explains an end, of whoever said it
    clock: str = ""  # why it will not end itself when its time is over


def said(log: str) -> Said:
    """What the log of an instance tells. It may begin with earlier runs, or behind the first line
    of the latest, if much was printed since; whose log it is, is not known then."""
    latest = next(reversed(list(_BEGUN.finditer(log))), None)
    rest = log[latest.end() :] if latest else log
    steps = _SAID.findall(rest)
    ended = next(filter(None, map(_ENDED.fullmatch, steps)), None)
    return Said(
        fingerprint=latest["fingerprint"] if latest else None,
        run=latest["run"] if latest else "",
        step=steps[-1] if steps else "",
        ended=int(ended[1]) if ended else None,
        last_line=_telling(rest),
        clock=(_CLOCK.findall(log) or [""])[-1],
    )


def _telling(log: str) -> str:
    """The last line that speaks of an error, else the last that is not the script's own."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not _SAID.match(line)]
    errors = [line for line in lines if "error" in line.lower()]
    return _plain((errors or lines or [""])[-1])[:300]


def _plain(text: str) -> str:
    """A text of others on one line, with nothing in it that a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
