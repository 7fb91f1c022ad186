"""Leaves this folder out of a plain `pytest tests`: its clients need environments of their own."""

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [(config.invocation_params.dir / a.split("::")[0]).resolve() for a in config.args]
    return None if any(path.is_relative_to(HERE) for path in asked) else True
