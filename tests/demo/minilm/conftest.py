import pytest
import torch

from sparsekit.demo.minilm.corpus import Corpus, Pair
from sparsekit.demo.minilm.encoder import Encoder


class LetterTokenizer:
    """One token per letter, called as a transformers tokenizer is."""

    def __call__(self, texts, truncation, max_length, padding=False, return_tensors=None):
        if isinstance(texts, str):
            return {"input_ids": [ord(letter) % 64 + 1 for letter in texts][:max_length]}
        rows = [self(text, truncation, max_length)["input_ids"] for text in texts]
        if return_tensors is None:
            return {"input_ids": rows}
        width = max(len(row) for row in rows)
        return {
            "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        }


@pytest.fixture
def encoder():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=65,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    return Encoder(transformers.BertModel(config, add_pooling_layer=False).eval(), LetterTokenizer())


@pytest.fixture
def corpus():
    texts = [f"text {i} " + "about something " * (1 + i % 3) for i in range(24)]
    return Corpus(tuple(texts[:16]), tuple(Pair(f"query {i}", text) for i, text in enumerate(texts[16:])))
