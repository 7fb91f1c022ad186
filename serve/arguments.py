"""The options of the command line, and what their values mean."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from serve import argv, cors, logs, shelf, tls
from serve.errors import ConfigError

KEY_VARIABLE = "RERANK_API_KEY"
OTLP = "--otlp-endpoint"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
CACHE_REDIS = "--cache-redis"
REDIS_VARIABLE = "RERANK_REDIS_URL"
_PATH = "/v1/traces"  # below a collector's own URL
_URL = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[^\s/?#\[\]:]+)(:[0-9]{1,5})?(/[^\s?#]*)?")
_REDIS_URL = re.compile(
    r"(rediss?://([^\s/?#@]*@)?(\[[0-9a-fA-F:.]+\]|[^\s/?#\[\]:@]+)(:[0-9]{1,5})?(/[0-9]*)?"
    r"|unix://([^\s/?#@]*@)?/[^\s?#]+)(\?[^\s#]*)?"
)


def add_listening(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on")
    command.add_argument(
        "--api-key-file",
        type=Path,
        metavar="F",
        help="file with a line for each API key, [NAME] KEY [requests=100/minute]"
        f" [pairs=20000/hour] [only=metrics]; {KEY_VARIABLE} in the environment is another",
    )
    for option, holds in ((tls.CERTIFICATE, "certificate (and chain)"), (tls.KEY, "private key")):
        words = f"PEM file with the server's {holds}: HTTPS alone is spoken, TLS 1.2 or newer"
        command.add_argument(option, type=Path, metavar="FILE", help=words)
    words = f"web pages that may use this server, as https://app.example.com; {cors.ANY}: all"
    command.add_argument(
        cors.OPTION, action="append", default=[], metavar="ORIGIN", help=f"{words}; repeatable"
    )


def port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: give 0 (any) to 65535")


def add_model(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs=None if required else "?",
        default=shelf.DEFAULT_MODEL,
        help="a config's or stack's name, a YAML's path, a Hugging Face id or a model's folder"
        f" (default: {shelf.DEFAULT_MODEL})",
    )


def add_sharing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        CACHE_REDIS,
        metavar="URL",
        help="a Redis in which servers share their scores, as redis://:password@10.0.0.7:6379/0 (or"
        f" rediss://, unix://); {REDIS_VARIABLE} in the environment is another way to say it",
    )


def redis_url(given: str | None, environment: Mapping[str, str]) -> str | None:
    """The URL of the Redis that is shared, if one is, from the option's value and the environment.

    Raises ConfigError for what is none; that says nothing of the value, which may hold a password.
    """
    source, url = (CACHE_REDIS, given)
    if url is None:
        source, url = REDIS_VARIABLE, environment.get(REDIS_VARIABLE) or None
    if url is None or _REDIS_URL.fullmatch(url):
        return url
    raise ConfigError(
        f"{source}: that is no URL of a Redis: redis://:password@127.0.0.1:6379/0 is, and"
        " unix:///run/redis.sock; in a password, write / ? # @ : as %2F %3F %23 %40 %3A"
    )


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", choices=("cpu", "gpu"), help="default: what vLLM was installed for"
    )


def add_vllm(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vllm",
        default=shlex.join((sys.executable, *argv.ENTRY)),
        metavar="COMMAND",
        help="the command that starts vLLM's server (default: this Python's)",
    )


def add_telling(command: argparse.ArgumentParser) -> None:
    """Adds the options of logs and traces."""
    command.add_argument(
        "--log-format", choices=logs.FORMATS, default="text", help="default: %(default)s"
    )
    command.add_argument(
        "--access-log",
        type=_fraction,
        default=0.0,
        metavar="FRACTION",
        help="the share of requests that the log tells of, 0 to 1, beside those that fail with a"
        " status of 500 or more, all of which it tells of (default: 0)",
    )
    command.add_argument(
        OTLP,
        metavar="URL",
        help="a collector that OpenTelemetry's traces are sent to, as http://127.0.0.1:4318;"
        f" {ENDPOINT} in the environment is another way to say it",
    )


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value <= 1:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is no share: give 0 (failures alone) to 1 (all)")


def otlp_endpoint(given: str | None, environment: Mapping[str, str]) -> str | None:
    """The URL that traces are sent to, if they are, from the option's value and the environment.

    Raises ConfigError for what is no URL, or for another protocol than OTLP over HTTP.
    """
    if given is not None:
        return _traces_url(given, OTLP)
    for source in (TRACES_ENDPOINT, ENDPOINT):
        if url := environment.get(source):
            _check_protocol(environment, source)
            return _traces_url(url, source)
    return None


def _check_protocol(environment: Mapping[str, str], source: str) -> None:
    name = next((name for name in _PROTOCOLS if environment.get(name)), None)
    if name and environment[name] != PROTOCOL:
        raise ConfigError(
            f"{name} is {environment[name]!r}, and traces are sent by {PROTOCOL} alone: set it so"
            f" (and {source} to the collector's port for that, mostly 4318), or unset {source}"
        )


def _traces_url(url: str, source: str) -> str:
    if not _URL.fullmatch(url):
        raise ConfigError(f"{source}: {url!r} is no URL of a collector: http://127.0.0.1:4318 is")
    is_whole = source == TRACES_ENDPOINT or url.endswith(_PATH)
    return url if is_whole else url.rstrip("/") + _PATH
