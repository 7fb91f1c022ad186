"""The command line: `python -m serve up | check | argv | stop`.

Exit status: 0 stopped as asked, 1 cannot start or go on, 2 a configuration that cannot be used.
"""

import argparse
import asyncio
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from serve import __version__, argv, home, machine, server, shelf, stack_yaml, tls, weights
from serve.auth import read_keys
from serve.errors import ConfigError, StartError
from serve.fleet import SOCKET_NAME, Program
from serve.stack import Stack

KEY_VARIABLE = "RERANK_API_KEY"
# Not for engines: our key, and the variable by which vLLM would guard a part of its own routes.
_NOT_INHERITED = (KEY_VARIABLE, "VLLM_API_KEY")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    # It warns of each request that is no HTTP: strangers would fill the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        return int(options.command(options))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the server's own handler was there
        return 130


def up(options: argparse.Namespace) -> int:
    """Serves a model or a stack of models until it is told to stop."""
    speaks = tls.context(options.tls_certificate, options.tls_key)
    served = _stack(options)
    keys = _keys(options.api_key_file, os.environ)
    if not keys and options.host not in LOOPBACK:
        logging.warning("no API key: anyone who reaches %s may use this server", options.host)
    settings = server.Options(
        host=options.host,
        port=options.port,
        keys=keys,
        run_dir=options.run_dir,
        program=Program(
            vllm=shlex.split(options.vllm),
            device=options.device or machine.device(),
            environment={k: v for k, v in os.environ.items() if k not in _NOT_INHERITED},
        ),
        tls=speaks,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run(served, settings))
    return 0


def check(options: argparse.Namespace) -> int:
    """Says whether a configuration can be used on this machine."""
    device = options.device or machine.device()
    served = _stack(options).on(device, machine.cores())
    for model in served.models:
        weights.verify(weights.locate(model), model.sha256)
        print(f"{model.name}: {model.model}, score: {model.score.of}", *_roles(served, model.name))
    for name, cascade in served.cascades.items():
        stages = f"{cascade.first}, then {cascade.then} for the best {cascade.keep}"
        print(f"{name}: {stages}", *_roles(served, name))
    print(f"{options.model}: good, on a {device.upper()}")
    return 0


def _roles(served: Stack, name: str) -> list[str]:
    """What a name is in a stack beside what it says."""
    roles = {"the default": served.default, "answers use_llm": served.llm}
    return [f"({role})" for role, holder in roles.items() if holder == name]


def show_argv(options: argparse.Namespace) -> int:
    """Prints the commands that a configuration stands for, one for each engine."""
    device = options.device or machine.device()
    home_dir = options.run_dir / str(server.DEFAULT_PORT)
    for index, model in enumerate(_stack(options).on(device, machine.cores()).models):
        command = argv.build(
            model,
            weights=weights.locate(model),
            socket=str(home_dir / f"engine-{index}" / SOCKET_NAME),
            device=device,
            vllm=shlex.split(options.vllm),
        )
        print(command)
    return 0


def stop(options: argparse.Namespace) -> int:
    """Stops a server that runs on this machine."""
    stopped = home.stop(options.run_dir, options.port, timeout_s=60)
    print(f"port {options.port}: " + ("stopped" if stopped else "no server of this user runs"))
    return 0


def _stack(options: argparse.Namespace) -> Stack:
    served = stack_yaml.find(options.model)
    for model in served.models:
        if model.vllm == {"runner": "pooling"} and not model.is_local:
            logging.info(
                "%s has no YAML in configs/: taken for a cross-encoder (score: logit), with vLLM's"
                " own defaults and no pinned revision",
                model.model,
            )
    return served


def _keys(file: Path | None, environment: Mapping[str, str]) -> list[str]:
    variable = environment.get(KEY_VARIABLE)
    if variable is not None and not variable.strip():
        raise ConfigError(f"{KEY_VARIABLE} is set but empty: give it a key, or unset it")
    return (read_keys(file) if file else []) + ([variable.strip()] if variable else [])


def _default_run_dir(environment: Mapping[str, str]) -> Path:
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "rerank-serve"
    return Path(tempfile.gettempdir()) / f"rerank-serve-{os.getuid()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function in (("up", up), ("check", check), ("argv", show_argv), ("stop", stop)):
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function)
        command.add_argument(
            "--run-dir",
            type=Path,
            default=_default_run_dir(os.environ),
            help="private directory for sockets, locks and logs (default: %(default)s)",
        )
        if name in ("up", "stop"):
            command.add_argument("--port", type=_port, default=server.DEFAULT_PORT)
        if name != "stop":
            _add_model(command, required=name == "check")
        if name in ("up", "argv", "check"):
            _add_device(command)
        if name in ("up", "argv"):
            _add_vllm(command)
        if name == "up":
            _add_listening(command)
    return parser


def _add_listening(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument(
        "--api-key-file",
        type=Path,
        metavar="F",
        help=f"file with one API key a line; {KEY_VARIABLE} in the environment is another",
    )
    for option, holds in ((tls.CERTIFICATE, "certificate (and chain)"), (tls.KEY, "private key")):
        words = f"PEM file with the server's {holds}: HTTPS alone is spoken, TLS 1.2 or newer"
        command.add_argument(option, type=Path, metavar="FILE", help=words)


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: give 0 (any) to 65535")


def _add_model(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs=None if required else "?",
        default=shelf.DEFAULT_MODEL,
        help="a config's or stack's name, a YAML's path, a Hugging Face id or a model's folder"
        f" (default: {shelf.DEFAULT_MODEL})",
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=("cpu", "gpu"), help="default: what vLLM was installed for"
    )


def _add_vllm(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vllm",
        default=shlex.join((sys.executable, *argv.ENTRY)),
        metavar="COMMAND",
        help="the command that starts vLLM's server (default: this Python's)",
    )


if __name__ == "__main__":
    sys.exit(main())
