"""From an instance that was created, or started again, to an endpoint that ranks."""

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


def make_ready(desk: Desk, deployment: Deployment, *, earlier: str = "") -> Ready:
    """Follows an instance until it ranks, and writes down its certificate. Raises HostFailed."""
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
    deployment = desk.notes.write(deployment, fingerprint=proof.fingerprint)
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
