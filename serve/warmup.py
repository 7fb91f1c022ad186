"""The score that proves an engine: when it starts, and whenever it is in doubt."""

import asyncio
import time
from collections.abc import Callable

from serve.engine import Engine, encode, options
from serve.errors import RequestError, StartError
from serve.replica import Replica
from serve.rerank import RerankRequest, build_result
from serve.spec import Model

PROBE_S = 1.0  # between two looks at an engine that runs
IDLE_PROBE_S = 10.0  # one that has nothing to do is asked for a score so often
# How long a probe may take: so much, or so many times as long as the engine took at its start.
PROBE_TIMEOUT_S, PROBE_TIMES = 5.0, 4.0

# `/health` alone does not prove a forward pass.
WARM_UP = RerankRequest(
    queries=["What does a reranker do?"],
    passages=["It scores how well each passage answers a query.", "Bread rises in the oven."],
)
# The route that vLLM offers for a model of each kind, which tells one kind from the other.
_KIND_ROUTES = {"logit": "/classify", "cosine": "/v1/embeddings"}


async def prove(engine: Engine, model: Model) -> float:
    """The seconds in which the engine has given the scores of WARM_UP. Raises RequestError."""
    asked = time.monotonic()
    fields = options(WARM_UP, model, model.max_model_len)
    raw = await engine.score(encode(WARM_UP._replace(options=fields)), len(WARM_UP.passages))
    build_result(WARM_UP, raw, score=model.score, model="", id="", created=0)
    return time.monotonic() - asked


async def check_kind(engine: Engine, model: Model) -> None:
    """Raises StartError unless vLLM gives values of the kind that the spec declares."""
    kind = model.score.of
    if await engine.has_route(_KIND_ROUTES[kind]):
        return
    other = "cosine" if kind == "logit" else "logit"
    raise StartError(
        f"{model.name}: vLLM does not take this model for one whose values are {kind}s: write"
        f" `score: {other}` in its YAML if it is"
        f" {'an embedding model' if other == 'cosine' else 'a cross-encoder'}, or make it a"
        " reranker with `vllm: {hf-overrides: …}` as configs/bge-reranker-v2-gemma.yaml"
    )


async def until_stalled(
    replica: Replica, model: Model, proof_s: float, clock: Callable[[], float]
) -> None:
    """Returns when a ready engine has been in trouble for too long; ends lesser ones by a probe.

    `proof_s` is what `prove` took when it was alone.
    """
    patience_s = max(PROBE_TIMEOUT_S, PROBE_TIMES * proof_s)
    asked, stall_s = clock(), model.limits.stall_timeout_s
    while True:
        await asyncio.sleep(PROBE_S)
        is_idle = not replica.pairs and clock() - asked >= IDLE_PROBE_S
        if not is_idle and not replica.health.needs_a_probe:
            continue
        asked = clock()
        await _probe(replica, model, patience_s, clock)
        since = replica.health.troubled_since
        if since is not None and clock() - since >= stall_s:
            return


async def _probe(
    replica: Replica, model: Model, timeout_s: float, clock: Callable[[], float]
) -> None:
    """Notes whether the engine gives a score."""
    try:
        async with asyncio.timeout(timeout_s):
            await prove(replica.engine, model)
    except TimeoutError:
        if replica.pairs:  # the probe may be behind what the engine works on
            replica.health.lags(clock())
        else:
            replica.health.failed(clock(), of=1)
    except RequestError:
        replica.health.failed(clock(), of=1)
    else:
        replica.health.answered()
    replica.changed()
