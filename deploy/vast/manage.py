"""What may be done with deployments that exist."""

from collections.abc import Callable, Sequence

from deploy.vast import instance as vast_instance
from deploy.vast.desk import Desk
from deploy.vast.endpoint import Endpoint
from deploy.vast.errors import HostFailed, NotOurs, NotYet
from deploy.vast.instance import DEAD, Instance
from deploy.vast.notes import Deployment
from deploy.vast.ready import Ready, login, make_ready, way_to
from deploy.vast.rental import command, destroy
from deploy.vast.tunnel import LOOPBACK, Tunnel

STOPPED = DEAD | {"stopped"}
CHANGES_WITHIN_S = 300.0
HEAD = ("instance", "label", "state", "$/hour", "hours", "cost so far", "ends in", "address")


def find(desk: Desk, name: str | None) -> Instance:
    """The instance of ours that `name` means: its id, its label or the label's beginning.

    None means the only one. Raises NotOurs.
    """
    ours = desk.vast.ours()
    found = [one for one in ours if name is None or _is(one, name)]
    exact = [one for one in found if one.label == name or str(one.id) == name]
    found = exact or found
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{one.id} ({one.label})" for one in ours) or "none"
    wanted = f"{len(found)} instances are {name}" if name else f"there are {len(found)}"
    raise NotOurs(f"{wanted}: name one of this account's rerank-serve instances: {known}")


def _is(instance: Instance, name: str) -> bool:
    return str(instance.id) == name or instance.label.startswith(name)


def known(desk: Desk, instance: Instance) -> Deployment | None:
    """What this machine knows of an instance; None for one launched elsewhere."""
    return next((one for one in desk.notes.all() if one.label == instance.label), None)


def list_all(desk: Desk) -> str:
    """A table of this account's instances of ours, and what they cost together."""
    ours = desk.vast.ours()
    rows = [HEAD, *(_row(desk, one) for one in ours)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    now = desk.clock()
    running = sum(one.hourly for one in ours if one.status == "running")
    cost = sum(one.cost(now) for one in ours)
    lines.append(f"{len(ours)} instances, ${running:.3f} an hour, about ${cost:.2f} of rent so far")
    return "\n".join(lines)


def _row(desk: Desk, one: Instance) -> Sequence[str]:
    now, deployment = desk.clock(), known(desk, one)
    until = deployment.until if deployment else None
    address = one.address(deployment.port) if deployment else None
    return (
        str(one.id),
        one.label,
        one.status or "created",
        f"{one.hourly:.3f}",
        f"{max(now - one.started, 0) / 3600:.1f}",
        f"${one.cost(now):.2f}",
        f"{(until - now) / 60:.0f} min" if until else "-",
        f"{address[0]}:{address[1]}" if address else "-",
    )


def status(desk: Desk, name: str | None) -> str:
    """What an instance is doing, and whether it answers."""
    one = find(desk, name)
    rows = dict(zip(HEAD, _row(desk, one), strict=True))
    rows["endpoint"] = _health(desk, one)
    if one.message:
        rows["Vast.ai says"] = one.message
    return "\n".join(f"{key + ':':14}{value}" for key, value in rows.items())


def _health(desk: Desk, one: Instance) -> str:
    deployment = known(desk, one)
    if deployment is None:
        return "launched from another machine, where its key and certificate are"
    if deployment.fingerprint is None:
        return "was never ready"
    try:
        with way_to(desk, deployment)(one) as address:
            if address is None:
                return "no way leads to it"
            key = desk.notes.key(deployment.label)
            phase = Endpoint(address, deployment.fingerprint, key).phase()
            where = "through its tunnel" if deployment.local_port else f"https://{_at(address)}"
            return phase or f"ready, {where}"
    except (NotYet, HostFailed) as error:
        return str(error)


def _at(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def logs(desk: Desk, name: str | None, tail: int) -> str:
    return desk.vast.logs(find(desk, name).id, tail)


def stop(desk: Desk, name: str | None) -> str:
    """Stops an instance and waits until it has: its disk is kept, and paid for."""
    one = find(desk, name)
    desk.vast.stop(one.id)
    _wait(desk, one, f"instance {one.id} does not stop", lambda status: status in STOPPED)
    return (
        f"instance {one.id} is stopped. Its disk still costs money, also beyond its --ttl: start it"
        f" with `{command('start', one.label)}`, end it with `{command('destroy', one.label)}`"
    )


def start(desk: Desk, name: str | None) -> Ready:
    """Starts an instance that was stopped, and waits until it ranks. Raises DeployError."""
    one = find(desk, name)
    deployment = known(desk, one)
    if deployment is None:
        raise NotOurs(f"{one.label} was launched from another machine: start it there")
    earlier = ""
    if one.status != "running":
        earlier = vast_instance.said(desk.vast.logs(one.id)).run
        desk.vast.start(one.id)
        # Before Vast.ai heeds it, the instance is as dead as it was.
        words = f"instance {one.id} does not start: its machine may be rented by others now"
        _wait(desk, one, words, lambda status: status not in STOPPED)
    try:
        return make_ready(desk, deployment, earlier=earlier)
    except HostFailed as error:
        raise HostFailed(
            f"{error}. It still costs money: `{command('destroy', one.label)}` ends it"
        ) from error


def _wait(desk: Desk, one: Instance, words: str, is_so: Callable[[str], bool]) -> None:
    """Waits until the status of an instance is so. Raises HostFailed with `words`."""
    until = desk.clock() + CHANGES_WITHIN_S
    while desk.clock() < until:
        now = desk.vast.show(one.id)
        if now is None or is_so(now.status):
            return
        desk.pace.wait("poll")
    raise HostFailed(f"{words}. It still costs money: `{command('destroy', one.label)}` ends it")


def end(desk: Desk, name: str | None) -> None:
    """Destroys an instance, waits until it is gone, and forgets it. Raises StillThere, NotOurs."""
    try:
        one = find(desk, name)
    except NotOurs:
        left = [d for d in desk.notes.all() if name in (d.label, str(d.instance))]
        if name is None or not left:
            raise
        destroy(desk.vast, left[0].label, None, desk.show)  # it may show late
        desk.notes.forget(left[0].label)
        return
    destroy(desk.vast, one.label, one.id, desk.show)
    desk.notes.forget(one.label)


def tunnel(desk: Desk, name: str | None) -> None:
    """Holds the tunnel of an instance open until it ends or is interrupted."""
    one = find(desk, name)
    deployment = known(desk, one)
    if deployment is None or deployment.local_port is None:
        raise NotOurs(f"{one.label} was not launched with --tunnel from this machine")
    ssh = login(desk, deployment, one)
    if ssh is None:
        raise HostFailed(f"instance {one.id} has no way in through SSH: is it running?")
    try:
        with Tunnel(ssh) as open_tunnel:
            url = f"https://{LOOPBACK}:{deployment.local_port}"
            desk.show(f"{url} leads to {one.label} until you interrupt this")
            said = open_tunnel.wait()
    except NotYet as error:
        raise HostFailed(str(error)) from error
    raise HostFailed(f"the tunnel has ended: {said or 'without a word'}")
