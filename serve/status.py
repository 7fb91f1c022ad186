"""What the server tells about itself: bodies made of what is known, no I/O."""

from collections.abc import Sequence

from serve.cascade import CascadePool
from serve.catalog import Catalog
from serve.dialects import tei
from serve.pool import Pool
from serve.replica import Replica


def readiness(pools: Sequence[Pool], *, draining: bool, now: float) -> dict[str, object]:
    """The body of `/health/ready`: whether the server can score, and what each engine is doing.

    It is ready when any of its models is, since one that fails must not take the others off the
    load balancer; `degraded` says that it is, and some of its engines are not.
    """
    is_ready = any(pool.is_ready for pool in pools)
    is_whole = all(replica.is_ready for pool in pools for replica in pool.replicas)
    return {
        "ready": is_ready and not draining,
        "degraded": is_ready and not is_whole,
        "draining": draining,
        "models": [
            {
                "name": pool.name,
                "ready": pool.is_ready,
                "replicas": [_replica(replica, now) for replica in pool.replicas],
            }
            for pool in pools
        ],
    }


def _replica(replica: Replica, now: float) -> dict[str, object]:
    return {
        "phase": replica.progress.phase,
        "ready": replica.is_ready,
        "health": _health(replica),
        "percent": replica.progress.percent,
        "bytes": replica.progress.bytes,
        "seconds_in_phase": round(now - replica.since, 1),
        "restarts": replica.restarts,
        "pairs_in_flight": replica.pairs,
    }


def _health(replica: Replica) -> str | None:
    if replica.progress.phase != "ready":
        return None
    return "sick" if replica.is_sick else "slow" if replica.health.is_slow else "good"


def models(catalog: Catalog, *, created: int) -> dict[str, object]:
    """The body of `/v1/models`: the names that `model` may hold, in OpenAI's form and more."""
    listed = [model(catalog, name, created=created) for name in catalog.names]
    return {"object": "list", "data": listed}


def model(catalog: Catalog, name: str, *, created: int) -> dict[str, object]:
    """The body of `/v1/models/{name}`. Raises NotFound for a name that no request may hold."""
    served = catalog.choose(model=name, use_llm=False)
    name = catalog.name_of(served, name)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "rerank-serve",
        "model_type": "rerank",  # by which xinference's clients know a reranker
        "model_name": name,
        **(_model(served, catalog) if isinstance(served, Pool) else _cascade(served, catalog)),
    }


def info(catalog: Catalog) -> dict[str, object]:
    """The body of TEI's `/info`: of the default model, or of a cascade's first."""
    served = catalog.default
    pool = served.first if isinstance(served, CascadePool) else served
    return tei.info(
        served.name,
        revision=pool.model.revision,
        max_input_length=pool.reading.max_model_len,
        dtype=pool.model.vllm.get("dtype"),
        passages=pool.model.limits.passages,
        pairs=pool.model.limits.pairs_in_flight,
    )


def _model(pool: Pool, catalog: Catalog) -> dict[str, object]:
    score = pool.model.score
    return {
        "root": pool.name,
        "revision": pool.model.revision,
        "max_model_len": pool.reading.max_model_len,
        "dtype": pool.model.vllm.get("dtype"),
        "score": {"of": score.of, "temperature": score.temperature, "bias": score.bias},
        "ready": pool.is_ready,
        "default": catalog.default is pool,
        "llm": catalog.llm is pool,
    }


def _cascade(cascade: CascadePool, catalog: Catalog) -> dict[str, object]:
    return {
        "root": cascade.name,
        "cascade": {
            "first": cascade.first.name,
            "then": cascade.then.name,
            "keep": cascade.keep,
        },
        "ready": cascade.is_ready,
        "default": catalog.default is cascade,
        "llm": False,
    }
