"""From an instance that was created, or started again, to an endpoint that ranks."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from deploy.vast.desk import Desk
from deploy.vast.follow import Follower, Way
from deploy.vast.instance import SSH_PORT, Address, Instance
from deploy.vast.notes import Deployment
from deploy.vast.snippets import Access
from deploy.vast.tunnel import LOOPBACK, Login, Tunnel


@dataclass(frozen=True)
class Ready:
    """A deployment that has ranked rightly. `is_named` as of Proof."""

    deployment: Deployment
    access: Access
    is_named: bool


def make_ready(
    desk: Desk, deployment: Deployment, *, earlier: str = "", most: float = math.inf
) -> Ready:
    """Follows an instance until it ranks, and writes down what is known then. Raises HostFailed.

    `earlier` is the run of its start script that its log had before it was started again; `most` is
    the price, in dollars an hour, that was agreed.
    """
    label, instance = deployment.label, deployment.instance
    assert instance is not None, "a deployment that was never created"
    follower = Follower(
        desk,
        instance,
        way=way_to(desk, deployment),
        key=desk.notes.key(label),
        program=desk.notes.program(label),
        timeout_s=deployment.timeout_s,
        earlier=earlier,
        most=most,
    )
    proof = follower.until_ready()
    folder = desk.notes.folder(label)
    access = Access(
        url=proof.url,
        model=deployment.model,
        fingerprint=proof.fingerprint,
        certificate=str(desk.notes.certificate(label, proof.certificate)),
        key_file=str(folder / "key"),
        header_file=str(folder / "authorization"),
    )
    run = follower.heard.run if follower.heard else ""
    deployment = desk.notes.write(
        deployment, fingerprint=proof.fingerprint, hourly=follower.hourly, run=run
    )
    return Ready(deployment, access, proof.is_named)


def way_to(desk: Desk, deployment: Deployment) -> Way:
    """The way that a deployment is reached by: its host's address, or a tunnel through SSH."""
    local = deployment.local_port
    if local is None:
        return lambda instance: nullcontext(instance.address(deployment.port))

    @contextmanager
    def through(instance: Instance) -> Iterator[Address | None]:
        ssh = login(desk, deployment, instance)
        if ssh is None:
            yield None
            return
        with Tunnel(ssh):
            yield LOOPBACK, local

    return through


def login(desk: Desk, deployment: Deployment, instance: Instance) -> Login | None:
    """How to log into the instance of a deployment through SSH, once that can be."""
    outside = instance.address(SSH_PORT)
    if outside is None or deployment.local_port is None:
        return None
    return Login(
        outside,
        port=deployment.port,
        local=deployment.local_port,
        known_hosts=desk.notes.folder(deployment.label) / "known_hosts",
        identity=Path(deployment.identity) if deployment.identity else None,
    )
