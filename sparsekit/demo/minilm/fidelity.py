"""How much of the dense model is left in a pruned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.demo.minilm.corpus import Pair
from sparsekit.demo.minilm.encoder import Encoder


@dataclass(frozen=True)
class Fidelity:
    """Two figures on held-out text.

    Args:
        cosine: mean cosine between a document's embedding and the dense model's.
        retrieval: share of queries (a docstring's first sentence) whose nearest document, of all held-out ones, is
            the rest of the same docstring.
    """

    cosine: float
    retrieval: float


class Examination:
    """Judges encoders on the same held-out pairs, against the embeddings of the dense one."""

    def __init__(self, dense: Encoder, pairs: Sequence[Pair]) -> None:
        self.queries = [pair.query for pair in pairs]
        self.documents = [pair.document for pair in pairs]
        self.wanted = dense.embed(self.documents)

    def judge(self, encoder: Encoder) -> Fidelity:
        """Return both figures for ``encoder``."""
        documents = encoder.embed(self.documents)
        cosine = (documents * self.wanted).sum(dim=1).mean().item()
        return Fidelity(cosine, top_one(encoder.embed(self.queries), documents))


def top_one(queries: Tensor, documents: Tensor) -> float:
    """Share of rows of ``queries`` whose most similar row of ``documents`` has the same index."""
    nearest = (queries @ documents.T).argmax(dim=1)
    return (nearest == torch.arange(len(queries))).float().mean().item()
