"""ONNX Runtime, exported from torch: float32 or dynamically quantized to int8; FlashRank's way.

The parent names the file; what is not there is made, and put in its place when it is whole.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.workers.answering import (
    ScoreAll,
    answer_scores,
    answers,
    arguments,
)

BATCH_SIZES = (8, 16, 32)
ALL = 1_000_000  # FlashRank's batch: every passage at once


def main() -> None:
    out = answers()
    import onnxruntime

    given = arguments()
    folder, cache = Path(given["folder"]), Path(given["cache"])
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "float32.onnx"
    if not file.is_file():
        _export(folder, file, given["kind"])
    if given["dtype"] == "int8":
        file = _quantized(file, cache / "int8.onnx")
    session = onnxruntime.InferenceSession(
        str(file), _options(given), providers=["CPUExecutionProvider"]
    )
    settings = (ALL,) if given["flashrank"] else BATCH_SIZES
    version = f"onnxruntime {onnxruntime.__version__}"
    answer_scores(out, {"settings": settings, "version": version}, _scorer(given, folder, session))


def _options(given: Any) -> Any:
    """Threads that do not spin between requests; FlashRank leaves everything at its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not given["flashrank"]:
        options.intra_op_num_threads = given["cores"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _export(folder: Path, file: Path, kind: str) -> None:
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    load = AutoModelForSequenceClassification if kind == "logit" else AutoModel
    model = load.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    inputs = (torch.ones(2, 16, dtype=torch.long) * 5, torch.ones(2, 16, dtype=torch.long))
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    made = file.with_name("exporting.onnx")
    torch.onnx.export(
        _FirstOutput(model),
        inputs,
        str(made),
        input_names=["input_ids", "attention_mask"],
        output_names=["out"],
        dynamic_shapes=(axes, axes),
        external_data=False,
        dynamo=True,
    )
    made.replace(file)


def _FirstOutput(model: Any) -> Any:
    import torch

    class FirstOutput(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        """The model as a function of two tensors, without its names."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask)[0]

    return FirstOutput()


def _quantized(file: Path, target: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not target.is_file():
        made = target.with_name("quantizing.onnx")
        quantize_dynamic(file, made, weight_type=QuantType.QInt8, per_channel=False)
        made.replace(target)
    return target


def _scorer(given: Any, folder: Path, session: Any) -> ScoreAll:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(given["most"])
    # FlashRank pads to the longest of the batch, as do the others.
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(given["pad"]), pad_token=given["pad"])
    of = _logits if given["kind"] == "logit" else _cosines
    return of(_runner(tokenizer, session))


def _runner(tokenizer: Any, session: Any) -> Callable[[list[Any]], tuple[Any, Any]]:
    import numpy as np

    def run(texts: list[Any]) -> tuple[Any, Any]:
        """The output of a batch of texts or pairs, and which of its tokens are padding (0)."""
        encoded = tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encoded], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0], mask

    return run


def _logits(run: Callable[[list[Any]], tuple[Any, Any]]) -> ScoreAll:
    def score(query: str, passages: list[str], batch: int) -> list[float]:
        values: list[float] = []
        for at in range(0, len(passages), batch):
            out, _ = run([(query, passage) for passage in passages[at : at + batch]])
            values += out.reshape(-1).tolist()
        return values

    return score


def _cosines(run: Callable[[list[Any]], tuple[Any, Any]]) -> ScoreAll:
    import numpy as np

    def score(query: str, passages: list[str], batch: int) -> list[float]:
        texts, parts = [query, *passages], []
        # The query, which is short, is not padded to the length of passages.
        for at in [(0, 1)] + [(n, n + batch) for n in range(1, len(texts), batch)]:
            out, mask = run(texts[slice(*at)])
            weights = mask[:, :, None]
            mean = (out * weights).sum(1) / weights.sum(1)
            parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        table = np.concatenate(parts)
        return [float(value) for value in table[1:] @ table[0]]

    return score


if __name__ == "__main__":
    main()
