"""sentence-transformers: CrossEncoder, or SentenceTransformer and the cosine."""

from benchmarks.peers.workers.answering import (
    ScoreAll,
    answer_scores,
    answers,
    arguments,
)

BATCH_SIZES = (8, 16, 32)


def main() -> None:
    out = answers()
    import sentence_transformers
    import torch

    given = arguments()
    torch.set_num_threads(given["cores"])
    load = _cross_encoder if given["kind"] == "logit" else _bi_encoder
    score = load(given["folder"], getattr(torch, given["dtype"]), given["most"])
    version = f"sentence-transformers {sentence_transformers.__version__}"
    answer_scores(out, {"settings": BATCH_SIZES, "version": version}, score)


def _cross_encoder(folder: str, dtype: object, most: int) -> ScoreAll:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        folder, device="cpu", model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}
    )
    model.max_length = most

    def score(query: str, passages: list[str], batch: int) -> list[float]:
        values = model.predict(
            [(query, passage) for passage in passages],
            batch_size=batch,
            activation_fn=torch.nn.Identity(),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return list(map(float, values.float().tolist()))

    return score


def _bi_encoder(folder: str, dtype: object, most: int) -> ScoreAll:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        folder, device="cpu", model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}
    )
    model.max_seq_length = most

    def score(query: str, passages: list[str], batch: int) -> list[float]:
        vectors = model.encode(
            [query, *passages],
            batch_size=batch,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        ).float()
        return list(map(float, (vectors[1:] @ vectors[0]).tolist()))

    return score


if __name__ == "__main__":
    main()
