"""What a permutation did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class PermutedLayer:
    """What happened to one weight.

    Args:
        before, after: the kept score, of the order that the layer came in and of the one it has now.
        bound: the highest scores, as many as the pattern keeps, wherever they are: no order keeps more.
        order: ``(in,)``: which input is at each place now, counted as before; None where its inputs stay.
        reason: why its inputs stay, half a sentence; None where they moved.
    """

    before: float
    after: float
    bound: float
    order: Tensor | None = None
    reason: str | None = None

    @property
    def closed(self) -> float:
        """How much of what the pattern costs has been won back: 0 for none of it, 1 for all."""
        gap = self.bound - self.before
        return (self.after - self.before) / gap if gap > 0 else 0.0


@dataclass(frozen=True, eq=False)
class PermutedLayers(Mapping[str, PermutedLayer]):
    """What happened to each weight, by parameter name; prints as a table."""

    layers: Mapping[str, PermutedLayer]

    def __getitem__(self, name: str) -> PermutedLayer:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        width = max(map(len, self.layers), default=0)
        return "\n".join(
            f"{name:{width}}  kept {layer.before:.6g} -> {layer.after:.6g}"
            + (f", {layer.closed:.0%} of the gap closed" if layer.reason is None else f"; {layer.reason}")
            for name, layer in self.layers.items()
        )
