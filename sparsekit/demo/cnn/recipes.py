"""What the demo with convolutions tries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from sparsekit.demo.cnn.learning import Course
from sparsekit.demo.cnn.network import WIDTHS, behind_the_first, inside_blocks
from sparsekit.patterns import Filter, KernelSlice, Pattern, Unstructured


@dataclass(frozen=True)
class Recipe:
    """One way to prune the convolutions of a network.

    Args:
        name: how the table calls it.
        pattern: the legal sets of kept weights; None leaves the network dense.
        sparsity: fraction of zeros; None where the pattern fixes it.
        layers: from a model to the names of the convolutions that are pruned.
        shrinks: what is removed is cut out, and what is left is smaller and dense.
    """

    name: str
    pattern: Pattern | None = None
    sparsity: float | None = None
    layers: Callable[[nn.Module], list[str]] = behind_the_first
    shrinks: bool = False


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Args:
        recipes: how the small network is pruned, in this order.
        dense: how it learns before.
        course: how it learns while it is pruned.
        networks: names of the large networks.
        network_recipes: how these are pruned, by magnitude and at once.
        timing_s: seconds to time one recipe for.
        inductor: time dense models through ``torch.compile`` too, which compiles for half a minute each.
        widths: channels of the small network.
    """

    recipes: tuple[Recipe, ...]
    dense: Course
    course: Course
    networks: tuple[str, ...]
    network_recipes: tuple[Recipe, ...]
    timing_s: float
    inductor: bool = False
    widths: tuple[int, ...] = WIDTHS


DENSE = Recipe("dense, prepacked")
UNSTRUCTURED = Recipe("90 % unstructured", Unstructured(), 0.9)
RECIPES = (
    DENSE,
    Recipe("80 % unstructured", Unstructured(), 0.8),
    UNSTRUCTURED,
    Recipe("80 % kernels", KernelSlice(), 0.8),
    Recipe("50 % filters, shrunk", Filter(), 0.5, inside_blocks, shrinks=True),
)

FULL = Settings(
    recipes=RECIPES,
    dense=Course(12, 0.1),
    course=Course(12, 0.05),
    networks=("ResNet-50", "MobileNetV2"),
    network_recipes=(DENSE, UNSTRUCTURED, Recipe("90 % kernels", KernelSlice(), 0.9)),
    timing_s=6.0,
    inductor=True,
)
QUICK = Settings(
    recipes=(DENSE, UNSTRUCTURED, Recipe("80 % kernels", KernelSlice(), 0.8)),
    dense=Course(3, 0.1),
    course=Course(2, 0.1),
    networks=("ResNet-50",),
    network_recipes=(UNSTRUCTURED,),
    timing_s=1.0,
)
