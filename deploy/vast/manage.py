"""What may be done with deployments that exist."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from deploy.vast import instance as vast_instance
from deploy.vast.desk import Desk
from deploy.vast.endpoint import Endpoint
from deploy.vast.errors import DeployError, HostFailed, NotOurs, NotYet, StillThere
from deploy.vast.instance import DEAD, Instance
from deploy.vast.notes import Deployment
from deploy.vast.offers import aligned
from deploy.vast.plan import is_label
from deploy.vast.ready import Ready, login, make_ready, way_to
from deploy.vast.rental import command, destroy
from deploy.vast.tunnel import LOOPBACK, Tunnel

STOPPED = frozenset({"exited", "stopped"})
CHANGES_WITHIN_S = 300.0
HEAD = ("instance", "label", "state", "$/hour", "hours", "cost so far", "ends in", "address")


def ours(desk: Desk) -> list[Instance]:
    """The instances that this program has created, here or elsewhere, whatever they are called."""
    noted = {deployment.instance for deployment in desk.notes.all()}
    return [one for one in desk.vast.instances() if is_label(one.label) or one.id in noted]


def find(desk: Desk, name: str | None, *, exact: bool = False) -> Instance:
    """The instance of ours that `name` means: its id, its label, or the label's beginning unless
    `exact`. None means the only one. Raises NotOurs."""
    all_of_us = ours(desk)
    found = [one for one in all_of_us if name in (None, one.label, str(one.id))]
    if not found and not exact and name is not None:
        found = [one for one in all_of_us if one.label.startswith(name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{one.id} ({one.label})" for one in all_of_us) or "none"
    wanted = f"{len(found)} instances are {name}" if name else f"there are {len(found)}"
    raise NotOurs(f"{wanted}: name one of this account's rerank-serve instances: {listed}")


def known(desk: Desk, instance: Instance) -> Deployment | None:
    """What this machine knows of an instance; None for one launched elsewhere."""
    noted = list(desk.notes.all())
    by_id = (one for one in noted if one.instance == instance.id)
    by_label = (one for one in noted if one.label == instance.label)
    return next(by_id, None) or next(by_label, None)


def list_all(desk: Desk) -> str:
    """A table of this account's instances of ours, and what they cost together."""
    all_of_us = ours(desk)
    now = desk.clock()
    running = sum(one.hourly for one in all_of_us if one.status not in STOPPED)
    cost = sum(one.cost(now) for one in all_of_us)
    return (
        aligned([HEAD, *(_row(desk, one) for one in all_of_us)])
        + f"\n{len(all_of_us)} instances, ${running:.3f} an hour, about ${cost:.2f} of rent so far"
    )


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
            endpoint = Endpoint(address, deployment.fingerprint, key)
            where = "through its tunnel" if deployment.local_port else endpoint.url
            return endpoint.phase() or f"ready, {where}"
    except (NotYet, DeployError) as error:
        return str(error)


def logs(desk: Desk, name: str | None, tail: int) -> str:
    """The last lines of an instance's log, without what would move a terminal's cursor."""
    text = desk.vast.logs(find(desk, name).id, tail)
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def stop(desk: Desk, name: str | None) -> str:
    """Stops an instance and waits until it has: its disk is kept, and paid for."""
    one = find(desk, name)
    desk.vast.stop(one.id)
    _wait(desk, one, "does not stop", lambda status: status in STOPPED)
    again, over = command("start", str(one.id)), command("destroy", str(one.id))
    return (
        f"instance {one.id} is stopped. Its disk still costs money, also beyond its --ttl: start it"
        f" with `{again}`, end it with `{over}`"
    )


def start(desk: Desk, name: str | None) -> Ready:
    """Starts an instance that was stopped, and waits until it ranks. Raises DeployError."""
    one = find(desk, name)
    noted = known(desk, one)
    if noted is None:
        raise NotOurs(f"{one.id} was launched from another machine: start it there")
    deployment = desk.notes.write(noted, instance=one.id)
    desk.notes.key(deployment.label)  # which raises what is better known before
    desk.notes.program(deployment.label)
    try:
        earlier = _start(desk, one, deployment) if one.status != "running" else ""
        return make_ready(desk, deployment, earlier=earlier)
    except BaseException as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else error
        raise StillThere(f"{why}. Instance {one.id}: {_costs(one)}") from error


def _start(desk: Desk, one: Instance, deployment: Deployment) -> str:
    """Starts a stopped instance: the run that its log had before. Raises HostFailed."""
    earlier = vast_instance.said(desk.vast.logs(one.id)).run or deployment.run
    try:
        desk.vast.start(one.id)
        # Before Vast.ai heeds it, the instance is as dead as it was.
        _wait(desk, one, "does not start: its machine may be rented by others now", _is_alive)
    except HostFailed:
        with suppress(DeployError):  # else it stays queued, and may start to cost some other day
            desk.vast.stop(one.id)
        raise
    return earlier


def _is_alive(status: str) -> bool:
    return status not in DEAD | STOPPED


def _costs(one: Instance) -> str:
    """What still costs money, and what to do about it."""
    return (
        "its disk costs money, and its machine while it runs:"
        f" `{command('stop', str(one.id))}`, or end it with `{command('destroy', str(one.id))}`"
    )


def _wait(desk: Desk, one: Instance, words: str, is_so: Callable[[str], bool]) -> None:
    """Waits until the status of an instance is so. Raises HostFailed with `words`."""
    until = desk.clock() + CHANGES_WITHIN_S
    while desk.clock() < until:
        now = desk.vast.show(one.id)
        if now is None:
            raise HostFailed(f"instance {one.id} is gone")
        if is_so(now.status):
            return
        desk.pace.wait("poll")
    raise HostFailed(f"instance {one.id} {words}: {_costs(one)}")


def end(desk: Desk, name: str | None) -> None:
    """Destroys an instance, waits until it is gone, and forgets it. Raises StillThere, NotOurs."""
    noted = [one for one in desk.notes.all() if name in (one.label, str(one.instance))]
    if not noted:
        one = find(desk, name, exact=True)
        destroy(desk.vast, str(one.id), one.id, desk.show)
        noted = [deployment for deployment in desk.notes.all() if deployment.instance == one.id]
    else:  # by its id if that is known, whatever it is called by now; else it may show by its label
        destroy(desk.vast, noted[0].label, noted[0].instance, desk.show)
    for deployment in noted:
        desk.notes.forget(deployment.label)


def tunnel(desk: Desk, name: str | None) -> None:
    """Holds the tunnel of an instance open until it ends or is interrupted."""
    one = find(desk, name)
    deployment = known(desk, one)
    if deployment is None or deployment.local_port is None:
        raise NotOurs(f"{one.id} was not launched with --tunnel from this machine")
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
