"""Makes a cross-encoder of bge-reranker-base's shape with random weights, in the folder named.

The tokenizer is of bge's kind, made of the words of our texts: its few tokens are the first of the
250,002 that the model has rows for. The last layer is scaled so that scores spread over 0 to 1.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.workers.answering import answer, answers, arguments

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LOGIT_SPREAD = 1.5  # standard deviation of the logits
# Wide enough for attention to tell texts apart after 12 layers, and for rounding not to.
INITIALIZER_RANGE = 0.04


def main() -> None:
    out = answers()
    import torch

    given = arguments()
    torch.set_num_threads(given["cores"])
    torch.manual_seed(given["seed"])
    folder = Path(given["folder"])
    tokenizer = _tokenizer(given["words"], given["positions"] - 2)
    tokenizer.save_pretrained(folder)
    _as_any_version_reads_it(folder / "tokenizer_config.json")
    model = _model(given)
    with torch.inference_mode():
        _calibrate(model, tokenizer, given["texts"])
    model.save_pretrained(folder)
    answer(out, {"version": "built"}, {})


def _tokenizer(words: list[str], longest: int) -> Any:
    """Each word is one token, so that texts have as many tokens as they have words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({"▁", *"".join(words)})
    vocabulary = [(token, 0.0) for token in SPECIALS]
    vocabulary += [(f"▁{word}", -1.0) for word in words] + [(letter, -20.0) for letter in letters]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIALS.index("<unk>")))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
    )


def _as_any_version_reads_it(file: Path) -> None:
    """Names the tokenizer's class as every version of transformers has it: newer ones write their
    own name for it, which Infinity's older one does not know."""
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))


def _model(given: Any) -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    shape = XLMRobertaConfig(
        vocab_size=given["vocabulary"],
        hidden_size=given["width"],
        num_hidden_layers=given["layers"],
        num_attention_heads=given["heads"],
        intermediate_size=given["inner"],
        max_position_embeddings=given["positions"],
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        initializer_range=INITIALIZER_RANGE,
    )
    return XLMRobertaForSequenceClassification(shape).eval()


def _calibrate(model: Any, tokenizer: Any, texts: list[tuple[str, str]]) -> None:
    """Scales the last layer so that the logits of `texts` have mean 0 and LOGIT_SPREAD."""
    queries, passages = map(list, zip(*texts, strict=True))
    inputs = tokenizer(queries, passages, padding=True, return_tensors="pt")
    last = model.classifier.out_proj
    logits = model(**inputs).logits
    scale = LOGIT_SPREAD / float(logits.std())
    last.weight.mul_(scale)
    last.bias.fill_(-float(logits.mean()) * scale)


if __name__ == "__main__":
    main()
