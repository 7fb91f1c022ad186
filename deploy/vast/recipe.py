"""Pure: the plain recipe of Vast.ai's own guide, for who wants vLLM itself, and what it lacks."""

import re
import shlex

from deploy.vast.plan import clauses, image_for, query_text
from serve import argv
from serve.errors import ConfigError
from serve.spec import Hardware, Model, is_path
from serve.stack import Stack

PLAIN_PORT = 8000
WARNING = """\
# WARNING. This starts vLLM itself on an open port, for anyone on the internet who finds it:
#  - no key: /score, /rerank, /pooling, /tokenize and /metrics answer everyone (vLLM's --api-key
#    guards /v1 and /v2 alone);
#  - no TLS: queries, passages and keys cross the internet readable and changeable;
#  - no limit on the size of a request: one of 20 MB keeps it busy for a minute;
#  - special tokens in a passage are obeyed, and nobody looks whether it ranks;
#  - it runs, and costs money, until you destroy it.
# `python -m deploy vast up MODEL` has none of these but the last, and that with --ttl."""


def recipe(stack: Stack, needs: Hardware) -> str:
    """The commands to paste, below a warning of what they leave open.

    Raises ConfigError for what one vLLM process with no files of ours cannot serve.
    """
    if len(stack.models) != 1:
        names = ", ".join(model.name for model in stack.models)
        raise ConfigError(f"the plain recipe serves one model: name one of {names}")
    model = stack.models[0]
    if model.is_local or model.template is not None:
        local = "a folder" if is_path(model.model) else "a package"
        what = "its prompt template" if model.template else f"weights in {local}"
        raise ConfigError(
            f"{model.name} needs {what}, which the plain recipe cannot bring: leave --print-cli out"
        )
    flags = argv.plain(model)
    return "\n".join(
        (
            WARNING,
            "pip install --upgrade vastai",
            f"vastai search offers {shlex.quote(query_text(clauses(needs)))} -o dph_total"
            f" --storage {needs.disk_gib:g}",
            "export INSTANCE_ID=…   # the ID of the offer that you choose",
            f"vastai create instance $INSTANCE_ID --image {image_for(needs)}"
            f" --env {shlex.quote(_environment(model))} --disk {needs.disk_gib:g}"
            f" --args {shlex.join(flags)}",
            "vastai show instances   # until it runs; then find its address and port, and",
            "vastai destroy instance …   # with the instance's own ID, when you are done",
        )
    )


def _environment(model: Model) -> str:
    """The port, and the variables of a model's YAML, as Vast.ai's program reads them: it divides
    at spaces and takes quotes away. Raises ConfigError for a value that this would change."""
    words = [f"-p {PLAIN_PORT}:{PLAIN_PORT}"]
    for key, value in model.env.items():
        if not re.fullmatch(r"[^\s'\"]+", str(value)):
            raise ConfigError(f"env.{key}: the plain recipe cannot bring {value!r}")
        words.append(f"-e {key}={value}")
    return " ".join(words)
