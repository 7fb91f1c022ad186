"""Small models with random weights and tokenizers trained on the spot, for parity tests.

They have the architecture of the real ones, so what vLLM computes for them can be compared with
what `transformers` computes, on any machine.
"""

import random
from pathlib import Path

WORDS = (
    "deep learning network layer gradient model query passage rank score search engine index token"
    " weather river bread oven mountain city train music paper light colour number table window"
    " Straße naïve café 東京 深度学习 обучение μάθηση تعلم 🙂 data set feature vector"
).split()
MAX_TOKENS = 128


def random_text(source: random.Random, words: int) -> str:
    """`words` words, with unknown letters and odd spacing mixed in."""
    text = " ".join(source.choice(WORDS) for _ in range(words))
    return text if source.random() < 0.8 else text.upper() + " ☃ ñandú\t" + text[:7]


def build_xlm_roberta(folder: Path) -> Path:
    """XLMRobertaForSequenceClassification, one label, as bge-reranker-base, only smaller."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    source = random.Random(1)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
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
