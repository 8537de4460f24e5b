"""The result of the demo with the sentence encoder: what fidelity and what speed each recipe ends with."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.demo.report import Report, Row


@dataclass(frozen=True)
class EncoderRow(Row):
    """One recipe's figures, timed against the model as it came.

    Args:
        cosine, retrieval: see :class:`~sparsekit.demo.minilm.fidelity.Fidelity`.
    """

    cosine: float
    retrieval: float


@dataclass(frozen=True)
class EncoderReport(Report):
    """All recipes of the sentence encoder."""

    rows: tuple[EncoderRow, ...]

    @property
    def title(self) -> str:
        """What was pruned, and the example that is timed."""
        return f"MiniLM sentence encoder, {self.example}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Headers of the columns behind the recipe's name."""
        return (
            "\nsparsity",
            "\ncosine",
            "search\ntop-1",
            "dense\nms",
            "sparse\nms",
            "\nspeedup",
            "sparse\nlayers",
            "size\nMB",
        )

    def caption(self) -> str:
        """Where it was measured, and what the words mean."""
        m = self.machine
        return (
            f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}; medians, interleaved\n"
            "sparsity: of the encoder's Linear layers; the embedding tables stay dense\n"
            "cosine to the dense embedding and top-1 retrieval on held-out docstrings"
        )

    def cells(self, row: EncoderRow) -> tuple[str, ...]:
        """What ``row`` has in the columns."""
        return (
            f"{row.sparsity:.1%}",
            f"{row.cosine:.3f}",
            f"{row.retrieval:.1%}",
            f"{row.dense_ms:.1f}",
            f"{row.sparse_ms:.1f}",
            self.painted(row),
            f"{row.sparse_layers}/{row.layers}",
            f"{row.megabytes:.1f}",
        )
