"""Pure: what several engines tell Prometheus, as one text in its format (0.0.4)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PREFIX = "vllm:"  # of the families that are passed on: the rest tells of Python
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+|[Ii]nf|NaN)"
_SAMPLE = re.compile(
    rf"(?P<name>{PREFIX}[a-zA-Z0-9_:]+)(?:\{{(?P<labels>(?:{_LABEL}(?:,|(?=\}})))*)\}})?"
    rf"[ \t]+(?P<value>{_NUMBER}(?:[ \t]+-?[0-9]+)?)[ \t]*"
)
_ABOUT = re.compile(rf"# (HELP|TYPE) ({PREFIX}[a-zA-Z0-9_:]+)[ \t]+([^\r]*)")
_KINDS = frozenset(("counter", "gauge", "histogram", "summary", "untyped"))
_PARTS = re.compile(r"_(?:bucket|sum|count)$")  # of a histogram's or summary's samples


@dataclass
class _Family:
    kind: str = "untyped"
    words: str = ""
    samples: list[str] = field(default_factory=list)


def merge(texts: Iterable[tuple[Mapping[str, str], str]]) -> str:
    """The samples of all texts, each with the labels that stand beside its text before its own.

    Each family is told once, with all its samples behind it, as the format demands. A label of the
    engine's own by the name of one of ours gets the prefix `exported_`, as Prometheus has it.
    What is not in the format, or is of another kind than the first engine says, is left out: a
    single such line would lose Prometheus all the others.
    """
    families: dict[str, _Family] = {}
    for labels, text in texts:
        _add(families, labels, text)
    return "".join(
        f"# HELP {name} {family.words}\n# TYPE {name} {family.kind}\n{''.join(family.samples)}"
        for name, family in families.items()
        if family.samples
    )


def _add(families: dict[str, _Family], labels: Mapping[str, str], text: str) -> None:
    first = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    clash = re.compile(rf'(?<![a-zA-Z0-9_])(?=(?:{"|".join(labels)})=")') if labels else None
    told: dict[str, tuple[str, str]] = {}  # family → kind and words, by this engine
    for line in text.split("\n"):
        if line.startswith("#"):
            _read_about(told, line)
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            continue
        kind, name = _family_of(sample["name"], told)
        family = families.setdefault(name, _Family(kind, told.get(name, ("", ""))[1]))
        if family.kind == kind:
            family.samples.append(_line(sample, first, clash))


def _read_about(told: dict[str, tuple[str, str]], line: str) -> None:
    """Notes what a comment says of a family."""
    about = _ABOUT.fullmatch(line)
    if about is None:
        return
    what, name, words = about.groups()
    kind, help_words = told.get(name, ("untyped", ""))
    if what == "HELP":
        told[name] = kind, words
    elif words.strip() in _KINDS:
        told[name] = words.strip(), help_words


def _family_of(name: str, told: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """The kind and the name of the family that a sample is of."""
    if name not in told:
        base = _PARTS.sub("", name)
        if base != name and told.get(base, ("", ""))[0] in ("histogram", "summary"):
            name = base
    return told.get(name, ("untyped", ""))[0], name


def _line(sample: re.Match[str], first: str, clash: re.Pattern[str] | None) -> str:
    own = (sample["labels"] or "").rstrip(",")
    if clash is not None:
        own = clash.sub("exported_", own)
    labels = f"{first},{own}" if first and own else first or own
    return f"{sample['name']}{{{labels}}} {sample['value']}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
