"""Pure: from what a model needs to the search for a machine and the request for an instance."""

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.errors import ConfigError
from serve.spec import Hardware
from serve.stack import Stack

REPOSITORY = "vllm/vllm-openai"
VLLM_TAG = "v0.32.0"
# A tag of vLLM's image by the CUDA that is in it, which the host's driver must know.
IMAGES: Mapping[float, str] = {13.0: VLLM_TAG, 12.9: f"{VLLM_TAG}-cu129"}
IMAGE_GB = 10.0  # about what is fetched of such an image

# What a model whose YAML says nothing is taken to need.
UNSAID = Hardware(
    gpu_memory_gib=15, disk_gib=40, download_gb=2.5, compute_capability=7.5, cuda=13.0
)

LABEL = "rerank-serve-"  # begins the label of each instance that is ours
_LABEL = re.compile(rf"{LABEL}[a-z0-9.-]{{1,40}}-[0-9a-f]{{6}}-[0-9]{{1,3}}", re.ASCII)
DEFAULT_PORT = 8443  # inside the instance
SECRETS = frozenset({"RERANK_API_KEY", "HF_TOKEN"})
REDACTED = "[redacted]"
DAY_S = 86400.0
FILE = "rerank-serve.sh"  # the start script, in the home of the instance
LONGEST_SCRIPT = 4096  # characters of a start script with its arguments, as Vast.ai bounds them
BEYOND = 1e15  # any number that says something


@dataclass(frozen=True)
class Clause:
    """One requirement of an offer: its `field` must be `operator` `value`.

    `factor` turns the value into the unit that offers have it in, as the search language of
    Vast.ai's command line does by itself. `words` are for people.
    """

    field: str
    operator: Literal[">=", "<=", "="]
    value: float | bool
    words: str
    factor: float = 1

    def holds(self, offer: Mapping[str, object]) -> bool:
        """Whether an offer meets it. One that does not say, or says no number, does not."""
        if isinstance(self.value, bool):
            said = offer.get(self.field)
            return isinstance(said, bool | int) and bool(said) == self.value
        got = number(offer, self.field)
        if got is None:
            return False
        if self.operator == "=":
            return got == self.bound
        return got >= self.bound if self.operator == ">=" else got <= self.bound

    @property
    def bound(self) -> float | bool:
        """The value in an offer's unit."""
        return self.value if isinstance(self.value, bool) else self.value * self.factor

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, bool):
            text = str(value).lower()
        else:  # every digit, so that it is the same search
            text = str(int(value) if value == int(value) else value)
        return f"{self.field} {self.operator} {text}"


def number(row: Mapping[str, object], key: str) -> float | None:
    """A number of an offer or an instance; None for null, text, a truth, NaN and the like."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -BEYOND < value < BEYOND else None


def needs_of(stack: Stack) -> Hardware:
    """What a machine for `stack` needs. What a model's YAML does not say is taken from UNSAID."""
    models = [replace(model, hardware=_said(model.hardware)) for model in stack.models]
    return replace(stack, models=models).needs


def _said(hardware: Hardware) -> Hardware:
    """The same, with nothing left unsaid."""
    return Hardware(**{key: value or getattr(UNSAID, key) for key, value in vars(hardware).items()})


def image_for(needs: Hardware) -> str:
    """vLLM's image, its tag pinned. Raises ConfigError for a CUDA that none is made for."""
    tag = IMAGES.get(needs.cuda)
    if tag is None:
        known = " or ".join(f"{cuda:g}" for cuda in IMAGES)
        raise ConfigError(
            f"hardware.cuda: there is no image of vLLM {VLLM_TAG} for CUDA {needs.cuda:g}: write"
            f" {known}"
        )
    return f"{REPOSITORY}:{tag}"


def clauses(
    needs: Hardware, max_price: float | None = None, ttl_s: float | None = None
) -> tuple[Clause, ...]:
    """Every requirement of an offer for a machine that needs this.

    The first seven are those of Vast.ai's own guide for rerankers. GPU memory is as offers report
    it, which is less than what is printed on the box: a T4 of 16 GB has 15,360 MB.
    `max_price` is in dollars an hour; `ttl_s` is for how long the machine is wanted, if that is
    known: its host lets it no longer than the offer says.
    """
    capability, memory = needs.compute_capability, needs.gpu_memory_gib
    found: tuple[Clause, ...] = (
        Clause("compute_cap", ">=", round(capability * 100), f"compute capability {capability:g}"),
        Clause("gpu_ram", ">=", memory, f"a GPU with {memory:g} GB", 1000),
        Clause("num_gpus", "=", 1, "one GPU"),
        Clause("static_ip", "=", True, "an address that stays"),
        Clause("direct_port_count", ">=", 1, "a port of its own"),
        Clause("verified", "=", True, "a verified host"),
        Clause("rentable", "=", True, "free to rent"),
        Clause("cuda_max_good", ">=", needs.cuda, f"a driver for CUDA {needs.cuda:g}"),
        Clause("disk_space", ">=", needs.disk_gib, f"{needs.disk_gib:g} GB of disk"),
        Clause("reliability", ">=", 0.98, "reliability of 98 %"),
        Clause("inet_down", ">=", 200, "200 Mbit/s down"),
    )
    if ttl_s is not None:
        days = ttl_s / DAY_S
        found = (*found, Clause("duration", ">=", days, f"free for {ttl_s / 3600:g} h", DAY_S))
    if max_price is not None:
        words = f"at most ${max_price:g} an hour"
        found = (*found, Clause("dph_total", "<=", max_price, words))
    return found


def query(requirements: Sequence[Clause]) -> dict[str, dict[str, float | bool]]:
    """The search as the API takes it: units of offers, nothing converted on the way."""
    names = {">=": "gte", "<=": "lte", "=": "eq"}
    return {c.field: {names[c.operator]: c.bound} for c in requirements}


def query_text(requirements: Sequence[Clause]) -> str:
    """The same search in the language of Vast.ai's command line."""
    return " ".join(map(str, requirements))


@dataclass(frozen=True)
class Request:
    """What is asked of Vast.ai: an instance with an image, an environment and a start script.

    With `tunnel` the instance runs an SSH server in front, and opens no other port.
    """

    image: str
    disk_gib: float
    env: Mapping[str, str] = field(repr=False)  # its secrets are nobody's to read in a trace
    label: str
    script: str
    tunnel: bool = False

    def arguments(self) -> dict[str, object]:
        """The keyword arguments of the SDK's `create_instance`."""
        how: dict[str, object]
        if self.tunnel:
            how = {"ssh": True, "direct": True, "onstart_cmd": self.script}
        else:  # in place of the image's own entry point, which would be vLLM, open to all
            how = {"runtype": "args", "onstart_cmd": "/bin/bash", "args": ["-c", self.script]}
        return {
            "image": self.image,
            "disk": self.disk_gib,
            "env": dict(self.env),
            "label": self.label,
            "cancel_unavail": True,  # never queue for a machine that has gone
            **how,
        }

    def redacted(self) -> dict[str, object]:
        """The same, for people to see."""
        env = {key: REDACTED if key in SECRETS else value for key, value in self.env.items()}
        return {**self.arguments(), "env": env}


@dataclass(frozen=True)
class Contents:
    """What an instance is to run, whatever machine it is on.

    `model` is what `serve up` is told; `key` and `bundle` are SHA-256 digests in hex, of the API
    key and of our own program; `ttl_s` counts from its first start.
    """

    model: str
    key: str
    bundle: str
    port: int = DEFAULT_PORT
    tunnel: bool = False
    ttl_s: float | None = None
    hf_token: str | None = field(default=None, repr=False)


def request_for(needs: Hardware, contents: Contents, *, label: str, script: str) -> Request:
    """The request for an instance. Raises ConfigError for a script that Vast.ai would not take."""
    if len(script) + len("/bin/bash -c ") > LONGEST_SCRIPT:
        raise ConfigError(f"the start script has {len(script)} characters, too many for Vast.ai")
    env = {
        "RERANK_MODEL": contents.model,
        "RERANK_API_KEY": f"sha256:{contents.key}",
        "RERANK_BUNDLE": contents.bundle,
        "RERANK_PORT": str(contents.port),
        "RERANK_DEVICE": "gpu",
    }
    if contents.tunnel:  # SSH takes the output of a start script elsewhere than into the log
        env |= {"RERANK_HOST": "127.0.0.1", "RERANK_OUTPUT": "/proc/1/fd/1"}
    else:
        env |= {"RERANK_HOST": "0.0.0.0", f"-p {contents.port}:{contents.port}": "1"}
    if contents.ttl_s is not None:
        env["RERANK_TTL"] = f"{contents.ttl_s:.0f}"
    if contents.hf_token:
        env["HF_TOKEN"] = contents.hf_token
    return Request(image_for(needs), needs.disk_gib, env, label, script, contents.tunnel)


def label_for(model: str, attempt: str) -> str:
    """A label that no other attempt of any launch has; by it an instance is found again."""
    plain = re.sub(r"[^a-z0-9.-]", "-", model.rsplit("/", 1)[-1].lower())[:40]
    return f"{LABEL}{plain or 'model'}-{attempt}"


def is_label(text: str) -> bool:
    """Whether a text is a label that `label_for` makes. Anyone with the account may write others,
    and labels become names of folders and parts of commands here."""
    return _LABEL.fullmatch(text) is not None


def packed(script: str) -> str:
    """A command for bash that is `script`, in a third of its length.

    It has no space, no quote, no dollar and no line break, so that it stays one argument whoever
    splits or joins arguments on the way.
    """
    content = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
    return f"{{base64,-d}}<<<{content}|gunzip>~/{FILE};{{exec,bash,~/{FILE}}}"
