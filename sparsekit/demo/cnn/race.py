"""A compiled network against the fastest dense way of the same network."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sparsekit.demo.cnn.dense import contenders, dense_ways
from sparsekit.demo.cnn.report import NetworkRow
from sparsekit.formats import Dense
from sparsekit.kernels.timing import fastest
from sparsekit.nn import PackedLayer

COMPILED = "compiled"


class Race:
    """What all recipes of one network are measured by.

    Args:
        dense: the network before it was pruned, in eval mode.
        example: what is timed.
        timing_s: seconds to time one recipe for.
        inductor: see :func:`~sparsekit.demo.cnn.dense.dense_ways`.
    """

    def __init__(self, dense: nn.Module, example: Tensor, timing_s: float, *, inductor: bool = False) -> None:
        self.dense = dense
        self.example = example
        self.timing_s = timing_s
        self.ways = contenders(dense_ways(dense, example, inductor=inductor))

    def row(
        self, recipe: str, models: tuple[nn.Module, nn.Module], seconds: float, accuracy: float | None = None
    ) -> NetworkRow:
        """Time one recipe and return its figures.

        Args:
            recipe: its name.
            models: the pruned network, and the same compiled.
            seconds, accuracy: what the row says of how it was made, and how well it reads.
        """
        pruned, fast = models
        with torch.inference_mode():
            times = fastest({**self.ways, COMPILED: partial(fast, self.example)}, self.timing_s)
        way = min(self.ways, key=lambda name: times[name])
        return NetworkRow(
            recipe=recipe,
            sparsity=self.sparsity_of(pruned),
            dense_ms=1e3 * times[way],
            sparse_ms=1e3 * times[COMPILED],
            megabytes=sum(t.nbytes for t in fast.state_dict().values() if isinstance(t, Tensor)) / 1e6,
            sparse_layers=sum(isinstance(m, PackedLayer) and m.format is not Dense for m in fast.modules()),
            layers=len(convolutions(pruned)),
            seconds=seconds,
            accuracy=accuracy,
            dense_way=way,
        )

    def sparsity_of(self, pruned: nn.Module) -> float:
        """Share of the dense network's convolution weights that are zero in ``pruned``, or no longer there."""
        kept = sum(int(torch.count_nonzero(layer.weight)) for layer in convolutions(pruned))
        return 1.0 - kept / sum(layer.weight.numel() for layer in convolutions(self.dense))


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """Return the layers that the recipes prune, and the first beside them."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]
