"""The embedded model with settings of a measurement's own."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from serve.shelf import CONFIGS, DEFAULT_MODEL


def config(folder: Path, name: str, more: Mapping[str, object]) -> Path:
    """Writes minilm's config with `more` keys laid over it, and says where."""
    path = folder / f"{name}.yaml"
    plain = yaml.safe_load((CONFIGS / f"{DEFAULT_MODEL}.yaml").read_text())
    path.write_text(yaml.safe_dump({**plain, **more}))
    return path
