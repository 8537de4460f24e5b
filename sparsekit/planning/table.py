"""A plan as a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparsekit.planning.dtypes import OtherDtype
from sparsekit.planning.layer import LayerPlan, key_name

WIDTH = 180
HEADERS = ("layer", "pattern", "sparsity", "input", "format", "kernel", "dense us", "sparse us", "gain", "why not")
RIGHT = {"sparsity", "input", "dense us", "sparse us", "gain"}


def table(
    layers: Sequence[LayerPlan], network: Mapping[str, float] | None = None, others: Sequence[OtherDtype] = ()
) -> Table:
    """Return one row per layer and a summary; "dense us" is the fastest dense way, prepacked ones included."""
    made = Table(caption=" ".join([summary(layers, network or {}), *map(str, others)]), caption_justify="left")
    for header in HEADERS:
        made.add_column(header, justify="right" if header in RIGHT else "left", overflow="fold")
    for layer in layers:
        made.add_row(*map(escape, _cells(layer)))
    return made


def render(
    layers: Sequence[LayerPlan], network: Mapping[str, float] | None = None, others: Sequence[OtherDtype] = ()
) -> str:
    """Return the table as plain text."""
    text = io.StringIO()
    # Neither FORCE_COLOR nor a notebook may put anything but text there.
    Console(file=text, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False).print(
        table(layers, network, others)
    )
    return text.getvalue()


def summary(layers: Sequence[LayerPlan], network: Mapping[str, float] | None = None) -> str:
    """Return what the plan changes, in one line."""
    measured = [layer for layer in layers if layer.dense]
    if not measured:
        return "Nothing was measured: the example inputs call no Linear or Conv2d that could be replaced."
    eager = sum(layer.eager for layer in measured)
    dense = sum(layer.best_dense for layer in measured)
    chosen = sum(layer.seconds for layer in measured)
    sparse = sum(layer.sparse for layer in layers)
    prepacked = sum(layer.chosen is not None and not layer.sparse for layer in layers)
    return (
        f"{sparse} of {len(layers)} layers run sparse, {prepacked} prepacked dense, "
        f"{len(layers) - sparse - prepacked} stay as they are. All measured layers: as they are {eager * 1e6:.0f} us, "
        f"best dense {dense * 1e6:.0f} us, as planned {chosen * 1e6:.0f} us, {dense / chosen:.2f}x of best dense."
        + _whole(network or {})
    )


def _whole(network: Mapping[str, float]) -> str:
    """Say what one run of the whole model takes in each order of its images, the fastest first."""
    if not network:
        return ""
    times = ", ".join(f"{order} {seconds * 1e6:.0f} us" for order, seconds in network.items())
    return f" The whole model, by the order of its images: {times}."


def _cells(layer: LayerPlan) -> tuple[str, ...]:
    way = layer.chosen
    sparse = way if way is not None and layer.sparse else None
    left = f", {layer.mask.remainder}" if layer.mask.remainder else ""
    return (
        layer.name or "(the model)",
        f"{layer.mask.pattern}{left}",
        f"{layer.mask.sparsity:.3f}",
        ", ".join(f"{count} * {key_name(key)}" if count > 1 else key_name(key) for key, count in layer.calls.items()),
        way.format if way else "-",
        ", ".join(dict.fromkeys(way.kernels.values())) if way else "-",
        f"{layer.best_dense * 1e6:.0f}" if layer.dense else "-",
        f"{sparse.seconds * 1e6:.0f}" if sparse else "-",
        f"{layer.best_dense / sparse.seconds:.2f}x" if layer.dense and sparse else "-",
        layer.reason,
    )
