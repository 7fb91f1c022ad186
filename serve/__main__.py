"""The command line: `python -m serve up | check | argv | reload | stop`.

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
from functools import partial
from itertools import chain
from pathlib import Path

import uvloop

from serve import (
    __version__,
    argv,
    cors,
    home,
    logs,
    machine,
    server,
    stack_yaml,
    tls,
    weights,
)
from serve.arguments import (
    KEY_VARIABLE,
    REDIS_VARIABLE,
    add_device,
    add_listening,
    add_model,
    add_sharing,
    add_telling,
    add_vllm,
    otlp_endpoint,
    port,
    redis_url,
)
from serve.auth import Key, Keys
from serve.errors import ConfigError, StartError
from serve.fleet import SOCKET_NAME, Program
from serve.key_file import read_keys, variable_key
from serve.stack import Stack

# Not for engines: our secrets, and the variable by which vLLM would guard a part of its own routes.
_NOT_INHERITED = (KEY_VARIABLE, REDIS_VARIABLE, "VLLM_API_KEY")
NO_SERVER = "no server of this user runs"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logs.configure(options.log_format)
    # It warns of each request that is no HTTP: strangers would fill the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        return int(options.command(options))
    except (ConfigError, StartError) as error:
        if options.log_format == "text":
            print(f"error: {error}", file=sys.stderr)
        else:
            logging.error("error: %s", error)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:  # before the server's own handler was there
        return 130


def up(options: argparse.Namespace) -> int:
    """Serves a model or a stack of models until it is told to stop."""
    speaks = tls.context(options.tls_certificate, options.tls_key)
    served = _stack(options)
    read = partial(_keys, options.api_key_file, os.environ)
    keys = Keys(read())
    if not keys and options.host not in LOOPBACK:
        logging.warning("no API key: anyone who reaches %s may use this server", options.host)
    settings = server.Options(
        host=options.host,
        port=options.port,
        keys=keys,
        read_keys=read,
        run_dir=options.run_dir,
        program=Program(
            vllm=shlex.split(options.vllm),
            device=options.device or machine.device(),
            environment={k: v for k, v in os.environ.items() if k not in _NOT_INHERITED},
        ),
        tls=speaks,
        tls_files=(options.tls_certificate, options.tls_key) if speaks else None,
        origins=cors.origins(options.cors_origin, has_keys=bool(keys)),
        access_log=options.access_log,
        otlp_endpoint=otlp_endpoint(options.otlp_endpoint, os.environ),
        cache_redis=redis_url(options.cache_redis, os.environ),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run(served, settings))
    return 0


def check(options: argparse.Namespace) -> int:
    """Says whether a configuration can be used on this machine."""
    device = options.device or machine.device()
    served = _stack(options).on(device, machine.cores(), machine.apart())
    for model in served.models:
        weights.verify(weights.locate(model), model.sha256)
        several = [f"({model.replicas} replicas)"] if model.replicas > 1 else []
        words = f"{model.name}: {model.model}, score: {model.score.of}"
        print(words, *several, *_roles(served, model.name))
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
    engines = _stack(options).on(device, machine.cores(), machine.apart()).engines
    for index, engine in enumerate(chain.from_iterable(engines)):
        command = argv.build(
            engine,
            weights=weights.locate(engine),
            socket=str(home_dir / f"engine-{index}" / SOCKET_NAME),
            device=device,
            vllm=shlex.split(options.vllm),
        )
        print(command)
    return 0


def reload(options: argparse.Namespace) -> int:
    """Has a server of this machine read its keys and certificate again and restart its engines, one
    by one and without the loss of a request."""
    told = home.reload(options.run_dir, options.port)
    words = "reloading: its log and /health/ready say how far" if told else NO_SERVER
    print(f"port {options.port}: {words}")
    return 0 if told else 1


def stop(options: argparse.Namespace) -> int:
    """Stops a server that runs on this machine."""
    stopped = home.stop(options.run_dir, options.port, timeout_s=60)
    print(f"port {options.port}: " + ("stopped" if stopped else NO_SERVER))
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


def _keys(file: Path | None, environment: Mapping[str, str]) -> list[Key]:
    variable = environment.get(KEY_VARIABLE)
    if variable is not None and not variable.strip():
        raise ConfigError(f"{KEY_VARIABLE} is set but empty: give it a key, or unset it")
    found = [variable_key(KEY_VARIABLE, variable.strip())] if variable else []
    return (read_keys(file) if file else []) + found


def _default_run_dir(environment: Mapping[str, str]) -> Path:
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "rerank-serve"
    return Path(tempfile.gettempdir()) / f"rerank-serve-{os.getuid()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function in (
        ("up", up),
        ("check", check),
        ("argv", show_argv),
        ("reload", reload),
        ("stop", stop),
    ):
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(command=function, log_format="text")
        command.add_argument(
            "--run-dir",
            type=Path,
            default=_default_run_dir(os.environ),
            help="private directory for sockets, locks and logs (default: %(default)s)",
        )
        if name in ("up", "reload", "stop"):
            command.add_argument("--port", type=port, default=server.DEFAULT_PORT)
        if name not in ("reload", "stop"):
            add_model(command, required=name == "check")
        if name in ("up", "argv", "check"):
            add_device(command)
        if name in ("up", "argv"):
            add_vllm(command)
        if name == "up":
            add_listening(command)
            add_telling(command)
            add_sharing(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
