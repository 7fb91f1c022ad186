"""Asks a running server for the engine's own values, through `requests` and the score API."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import requests

from benchmarks.labelled import InputError, Pair

TIMEOUT_S = 600.0
BATCH = 64  # passages in a request


class AskError(Exception):
    """The server could not be reached, refused, or answered something else than scores."""


class RawValues:
    """A connection to one server. Use as a context manager, or close it."""

    def __init__(self, url: str, *, model: str | None, api_key: str | None) -> None:
        """`url` is `http://HOST:PORT`; `model` None is the server's default."""
        self._url = url.rstrip("/")
        self._model = model
        self._http = requests.Session()
        if api_key:
            self._http.headers["authorization"] = f"Bearer {api_key}".encode(
                "utf-8", "surrogateescape"
            )

    def __enter__(self) -> "RawValues":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def kind(self) -> str | None:
        """What the model's raw value is, `logit` or `cosine`; None where the server does not say.

        Raises AskError, also when the server has no such model, and InputError for a cascade.
        """
        entry = self._entry()
        if "cascade" in entry:
            raise InputError(
                f"{entry['id']} is a cascade, whose raw values are of two models: calibrate each of"
                " these with --model"
            )
        score = entry.get("score")
        kind = score.get("of") if isinstance(score, dict) else None
        return kind if kind in ("logit", "cosine") else None

    def _entry(self) -> dict[str, object]:
        """What the server tells about the model; empty where it lists none."""
        answer = self._ask("GET", "/v1/models", None)
        entries = answer.get("data") if isinstance(answer, dict) else None
        known = [entry for entry in entries or () if isinstance(entry, dict) and "id" in entry]
        if self._model is None:
            return next((entry for entry in known if entry.get("default")), (known or [{}])[0])
        for entry in known:
            if entry["id"] == self._model:
                return entry
        if known:
            names = ", ".join(str(entry["id"]) for entry in known)
            raise AskError(f"{self._url} has no model {self._model!r}; it has {names}")
        return {}

    def of(self, pairs: Sequence[Pair], on_progress: Callable[[int], None]) -> list[float]:
        """One raw value for each of `pairs`, in their order.

        One request asks about one query. `on_progress` is told how many pairs are done. Raises
        AskError.
        """
        values = [0.0] * len(pairs)
        done = 0
        order = sorted(range(len(pairs)), key=lambda index: pairs[index].query)
        for query, group in groupby(order, key=lambda index: pairs[index].query):
            indices = list(group)
            for start in range(0, len(indices), BATCH):
                batch = indices[start : start + BATCH]
                found = self._score(query, [pairs[index].passage for index in batch])
                for index, value in zip(batch, found, strict=True):
                    values[index] = value
                done += len(batch)
                on_progress(done)
        return values

    def _score(self, query: str, passages: Sequence[str]) -> list[float]:
        body = {"text_1": query, "text_2": passages, "use_activation": False}
        answer = self._ask("POST", "/score", {"model": self._model, **body})
        try:
            values = [float(item["score"]) for item in answer["data"]]  # type: ignore[index]
        except (KeyError, TypeError, ValueError) as error:
            raise AskError(f"{self._url}/score answered no scores: {answer!r:.200}") from error
        if len(values) != len(passages) or not all(map(math.isfinite, values)):
            raise AskError(
                f"{self._url}/score answered {len(values)} values, not all finite or not as many"
                f" as the {len(passages)} passages: {answer!r:.200}"
            )
        return values

    def _ask(self, method: str, path: str, body: object) -> object:
        url = self._url + path
        try:
            answer = self._http.request(method, url, json=body, timeout=TIMEOUT_S)
            if answer.ok:
                content: object = answer.json()
                return content
        except requests.ConnectionError as error:
            raise AskError(
                f"{url}: {error}: start the server with `make serve`, or name it with --url"
            ) from error
        except (requests.RequestException, ValueError) as error:
            raise AskError(f"{url}: {error}") from error
        raise AskError(f"{url}: status {answer.status_code}: {_message(answer)}")


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
