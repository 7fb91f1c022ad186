"""Pure: what the server tells about itself."""

from collections.abc import Sequence

from serve.cascade import CascadePool
from serve.catalog import Catalog
from serve.pool import Pool, Replica


def readiness(pools: Sequence[Pool], *, draining: bool, now: float) -> dict[str, object]:
    """The body of `/health/ready`: whether the server can score, and what each engine is doing.

    It is ready when any of its models is, since one that fails must not take the others off the
    load balancer; `degraded` says that some are and some are not.
    """
    states = [pool.is_ready for pool in pools]
    return {
        "ready": any(states) and not draining,
        "degraded": any(states) and not all(states),
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
        "percent": replica.progress.percent,
        "bytes": replica.progress.bytes,
        "seconds_in_phase": round(now - replica.since, 1),
        "restarts": replica.restarts,
        "pairs_in_flight": replica.pairs,
    }


def models(catalog: Catalog, *, created: int) -> dict[str, object]:
    """The body of `/v1/models`: the names that `model` may hold, in OpenAI's form and more."""
    common = {"object": "model", "created": created, "owned_by": "rerank-serve"}
    listed = [
        {"id": name, **common, **_model(pool, catalog)}
        for pool in catalog.pools
        for name in pool.model.names
    ]
    listed += [
        {"id": cascade.name, **common, **_cascade(cascade, catalog)} for cascade in catalog.cascades
    ]
    return {"object": "list", "data": listed}


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
