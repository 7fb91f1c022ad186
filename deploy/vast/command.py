"""The command line: `python -m deploy vast up | list | status | logs | stop | start | destroy`.

Exit status: 0 done, 1 not done, with one line that says why, 2 a wrong command or configuration,
130 interrupted.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from clients.reference import BadReference
from clients.verify import api_key
from deploy.vast import bundle, manage, recipe, snippets
from deploy.vast.api import Pace, Vast
from deploy.vast.desk import Desk
from deploy.vast.errors import DeployError, NoKey
from deploy.vast.launch import BOOT, Launch, Wish, new_key, request_of
from deploy.vast.notes import Notes
from deploy.vast.offers import table
from deploy.vast.options import parser_for
from deploy.vast.plan import needs_of, query_text
from deploy.vast.ready import Ready
from deploy.vast.rental import command
from deploy.vast.tunnel import is_free
from serve import stack_yaml
from serve.errors import ConfigError

# From renting to ranking, unless said otherwise: with the slowest download that is taken.
TIMEOUT_S, S_PER_GB = 1200.0, 40.0


@dataclass(frozen=True)
class Here:
    """The machine that a command is typed on."""

    environment: Mapping[str, str] = field(repr=False)
    pace: Pace

    def desk(self) -> Desk:
        """Raises NoKey."""
        get = self.environment.get
        key = get("VAST_API_KEY", "").strip()
        if not (key.isascii() and key.isprintable()):
            raise NoKey("VAST_API_KEY has a character that no key can have: set it anew")
        state = Path(get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        vast = Vast(key or None, get("VAST_URL") or None, pace=self.pace)
        return Desk(vast, Notes(state / "rerank-serve" / "vast"), _say, self.pace)


# What an interrupt of a verb leaves.
INTERRUPTED = {
    "up": "nothing of it is left running but what is named above",
    "tunnel": "the tunnel is closed; its instance runs on, and costs money",
}
INTERRUPTED_ELSE = "`list` shows what runs"


def main(arguments: Sequence[str] | None = None, pace: Pace | None = None) -> int:
    options = parser_for(VERBS, __doc__).parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        options.command(options, Here(os.environ, pace or Pace()))
        return 0
    except ConfigError as error:
        _say(f"error: {error}")
        return 2
    except DeployError as error:
        _say(f"error: {error}")
        behind = (error.__cause__, error.__context__)
        return 130 if any(isinstance(one, KeyboardInterrupt) for one in behind) else 1
    except OSError as error:  # of what is written, or of this machine
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say(f"error: {error}: nothing that is not named above is left running")
        return 1
    except KeyboardInterrupt:
        _say(f"interrupted: {INTERRUPTED.get(options.verb, INTERRUPTED_ELSE)}")
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def up(options: argparse.Namespace, here: Here) -> None:
    """Rents a GPU, serves MODEL on it, and returns when it has ranked rightly."""
    stack = stack_yaml.find(options.model)
    needs = needs_of(stack)
    if options.print_cli:
        print(recipe.recipe(stack, needs))
        return
    wish = Wish(
        model=stack.default,
        needs=needs,
        bundle=bundle.build(options.model, stack),
        max_price=options.max_price,
        yes=options.yes,
        ttl_s=options.ttl,
        tunnel=options.tunnel,
        port=options.port,
        local_port=options.local_port,
        identity=options.ssh_key,
        key=_own_key(options.api_key_file, here.environment),
        hf_token=_hf_token(here.environment) if options.hf_token else None,
        timeout_s=options.timeout or TIMEOUT_S + S_PER_GB * needs.download_gb,
        tries=options.tries,
        max_waste=options.max_waste,
    )
    if options.dry_run:
        _dry_run(wish, here)
        return
    desk = here.desk()
    if wish.local_port and not is_free(wish.local_port):
        raise ConfigError(f"--local-port {wish.local_port} is in use here: choose another")
    if wish.tunnel and not desk.vast.has_ssh_key():
        raise DeployError(
            "--tunnel needs an SSH key in the Vast.ai account: `vastai create ssh-key`, or add"
            " yours on the account's page; nothing was rented"
        )
    Launch(desk, wish, _ask, _tell).up()


def _dry_run(wish: Wish, here: Here) -> None:
    """Prints what `up` would do, secrets redacted. Searches, which costs nothing."""
    request = request_of(wish, "000000-0", wish.key or new_key()).redacted()
    print(f"needs:   {wish.needs}")
    print("request:", json.dumps(request, indent=1))
    print(f"script:  {BOOT}, which the request has packed")
    print(f"program: {len(wish.bundle.content)} bytes, sent to the instance over pinned TLS")
    print(f"search:  {query_text(wish.requirements())}")
    try:
        launch = Launch(here.desk(), wish, _ask, _tell)
        print(table(launch.quotes(wish.requirements())))
    except NoKey as error:
        print(f"offers:  not searched: {error}")
    print("nothing was rented")


def _tell(ready: Ready) -> None:
    """What the user needs from now on: all of it on standard output."""
    deployment, access = ready.deployment, ready.access
    key = Path(access.key_file).read_text()
    lines = {
        "URL": access.url,
        "key": f"{key}   (kept in {access.key_file})",
        "fingerprint": access.fingerprint,
        "price": f"${deployment.hourly:.3f} an hour",
        "destroy it": command("destroy", deployment.label),
    }
    print("\n".join(f"{name + ':':13}{value}" for name, value in lines.items()))
    if deployment.local_port:
        print(f"\nIt is reached while this runs: {command('tunnel', deployment.label)}")
    if not ready.is_named:
        print("\nIts certificate lacks this address: only our own client can check it.")
    print("\n" + snippets.text(access), flush=True)


def status(options: argparse.Namespace, here: Here) -> None:
    """Says what an instance is doing, what it costs, and whether it answers."""
    print(manage.status(here.desk(), options.name))


def logs(options: argparse.Namespace, here: Here) -> None:
    """Prints the last lines of an instance's log."""
    print(manage.logs(here.desk(), options.name, options.tail))


def stop(options: argparse.Namespace, here: Here) -> None:
    """Stops an instance: it computes no more, and its disk is kept and paid for."""
    print(manage.stop(here.desk(), options.name))


def start(options: argparse.Namespace, here: Here) -> None:
    """Starts a stopped instance and returns when it has ranked rightly."""
    _tell(manage.start(here.desk(), options.name))


def destroy(options: argparse.Namespace, here: Here) -> None:
    """Destroys an instance and returns when it is gone; nothing of it is paid for any more."""
    manage.end(here.desk(), options.name)


def tunnel(options: argparse.Namespace, here: Here) -> None:
    """Holds the SSH tunnel of an instance that was launched with --tunnel."""
    manage.tunnel(here.desk(), options.name)


def list_all(options: argparse.Namespace, here: Here) -> None:
    """Lists this account's rerank-serve instances and their running cost."""
    print(manage.list_all(here.desk()))


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that has gone must not stop what is being cleaned up
        print(text, file=sys.stderr, flush=True)


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        _say(f"{question} Nobody is here to ask: give --yes or --max-price X")
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _own_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The first key of a file, or that of the environment, or None for a new one."""
    try:
        key = api_key(file, environment)
    except BadReference as error:
        raise ConfigError(str(error)) from error
    if key is not None and not key.isascii():
        raise ConfigError("the API key is not plain ASCII, which not every client can send")
    return key


def _hf_token(environment: Mapping[str, str]) -> str:
    token = environment.get("HF_TOKEN", "").strip()
    if not token:
        raise ConfigError("--hf-token sends $HF_TOKEN, which is not set")
    _say("warning: the host of the instance can read HF_TOKEN: use one that may only read")
    return token


VERBS: Mapping[str, Callable[[argparse.Namespace, Here], None]] = {
    "up": up,
    "list": list_all,
    "status": status,
    "logs": logs,
    "stop": stop,
    "start": start,
    "destroy": destroy,
    "tunnel": tunnel,
}
