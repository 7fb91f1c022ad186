"""Pure: what the server tells about itself."""

from collections.abc import Sequence

from serve.pool import Pool, Replica


def readiness(pools: Sequence[Pool], *, draining: bool, now: float) -> dict[str, object]:
    """The body of `/health/ready`: whether every model can score, and what each engine is doing."""
    return {
        "ready": all(pool.is_ready for pool in pools) and not draining,
        "draining": draining,
        "models": [
            {
                "name": pool.model.name,
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


def models(pools: Sequence[Pool], *, created: int) -> dict[str, object]:
    """The body of `/v1/models`: the names that `model` may hold, in OpenAI's form."""
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "rerank-serve",
                "root": pool.model.name,
                "max_model_len": pool.model.max_model_len,
            }
            for pool in pools
            for name in pool.model.names
        ],
    }
