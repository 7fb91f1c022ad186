"""Small models with random weights and tokenizers trained on the spot, for parity tests.

They have the architecture of the real ones, so what vLLM computes for them can be compared with
what `transformers` computes, on any machine.
"""

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from serve.shelf import CONFIGS

WORDS = (
    "deep learning network layer gradient model query passage rank score search engine index token"
    " weather river bread oven mountain city train music paper light colour number table window"
    " Straße naïve café 東京 深度学习 обучение μάθηση تعلم 🙂 data set feature vector"
).split()
MAX_TOKENS = 128
LLM_MAX_MODEL_LEN = 320
LLM_LIMITS = {"max_tokens_per_query": 24, "max_tokens_per_doc": 64}


def random_text(source: random.Random, words: int) -> str:
    """`words` words, with unknown letters and odd spacing mixed in."""
    text = " ".join(source.choice(WORDS) for _ in range(words))
    return text if source.random() < 0.8 else text.upper() + " ☃ ñandú\t" + text[:7]


def nmt_nfkc() -> Any:
    """The normalizer of XLM-R's tokenizer, as its makers' program writes it into a model's file."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import normalizers

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_writer=written,
        vocab_size=100,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    return normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)


def build_xlm_roberta(folder: Path) -> Path:
    """XLMRobertaForSequenceClassification, one label, as bge-reranker-base, only smaller."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    source = random.Random(1)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = nmt_nfkc()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        (random_text(source, 20) for _ in range(300)),
        trainers.UnigramTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)

    torch.manual_seed(1)
    model = XLMRobertaForSequenceClassification(
        XLMRobertaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,  # 32 wide each, the least that vLLM's attention takes on a CPU
            intermediate_size=128,
            max_position_embeddings=MAX_TOKENS + 2,
            type_vocab_size=1,
            num_labels=1,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    )
    with torch.no_grad():  # logits of about -5..5, where the logistic function is far from flat
        model.classifier.out_proj.weight.mul_(8)
        model.classifier.out_proj.bias.fill_(-13)
    model.save_pretrained(folder)
    return folder


DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the least that vLLM's attention takes on a CPU
    "intermediate_size": 128,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}

# Words of the prompts, so that the trained tokenizers have tokens for them.
PROMPT_TEXT = (
    "Yes",
    "No",
    "yes",
    "no",
    "A: B: ",
    "Given a query A and a passage B, determine whether the passage contains an answer to the query"
    " by providing a prediction of either 'Yes' or 'No'.",
    "system user assistant <Instruct>: <Query>: <Document>: Judge whether the Document meets the"
    " requirements based on the Query and the Instruct provided.",
)


def _lines(count: int) -> Iterator[str]:
    source = random.Random(2)
    for _ in range(count):
        yield "\n".join((random_text(source, 20), *PROMPT_TEXT)) + "\n\n"


def _train_bpe(pre_tokenizer: Any, normalizer: Any, **options: Any) -> tuple[list[str], list[Any]]:
    """The tokens and merges of a byte-pair encoding."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, **options)
    tokenizer.train_from_iterator(_lines(200), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocab: dict[str, int] = trained["vocab"]
    merges = [tuple(merge) for merge in trained["merges"]]
    return sorted(vocab, key=vocab.__getitem__), merges


def build_gemma(folder: Path) -> Path:
    """GemmaForCausalLM as bge-reranker-v2-gemma, only smaller, with Gemma's own tokenizer class."""
    import torch
    from tokenizers import Regex, normalizers, pre_tokenizers
    from transformers import GemmaConfig, GemmaForCausalLM, GemmaTokenizer

    # Words with the space before them; runs of newlines are tokens of their own, as Gemma's are.
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex("\n+"), "isolated"),
        ]
    )
    tokens, merges = _train_bpe(split, normalizers.Replace(" ", "▁"))
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    every = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *tokens]
    tokenizer = GemmaTokenizer(
        vocab={token: index for index, token in enumerate(every)},
        merges=merges,
        add_bos_token=True,
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    model = GemmaForCausalLM(
        GemmaConfig(
            **DECODER,
            vocab_size=len(tokenizer),
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    return folder


def build_qwen3(folder: Path) -> Path:
    """Qwen3ForCausalLM as Qwen3-Reranker-0.6B, only smaller, with Qwen's own tokenizer class."""
    import torch
    from tokenizers import AddedToken, normalizers, pre_tokenizers
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    tokens, merges = _train_bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        normalizers.NFC(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}
    )
    # As in Qwen3's files: single tokens that are not called special.
    plain = [AddedToken(text, special=False) for text in ("<think>", "</think>", "<tool_call>")]
    tokenizer.add_tokens(plain)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **DECODER,
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    return folder


def tiny_config(shipped: str, folder: Path, work: Path, **changes: Any) -> Path:
    """The shipped YAML of a model, over a small model's files."""
    config = yaml.safe_load((CONFIGS / f"{shipped}.yaml").read_text())
    template = CONFIGS / config["vllm"]["chat-template"]
    del config["revision"], config["hardware"], config["names"]
    config |= {"model": str(folder), "request": LLM_LIMITS}
    config["vllm"] |= {
        "max-model-len": LLM_MAX_MODEL_LEN,
        "dtype": "float32",
        "enforce-eager": True,
        "chat-template": str(template),
    }
    for key, value in changes.items():
        config["vllm"][key.replace("_", "-")] = value
    path = work / f"{folder.name}-{len(list(work.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
