"""What operations that only move values do to axes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from sparsekit.pruning.dependencies.axes import fresh, joined, reshaped, sliced, unify
from sparsekit.pruning.dependencies.call import Axes, Call, unify_all

Rule = Callable[[Call], list[Axes] | None]


def same(call: Call) -> list[Axes] | None:
    """The output has the input's axes."""
    return [list(call.axes())]


def reshape(call: Call) -> list[Axes] | None:
    """Cut the row-major order anew."""
    if "dtype" in call.values:
        return None
    axes = reshaped(call.axes(), call.shapes[0])
    return None if axes is None else [axes]


def permute(call: Call) -> list[Axes] | None:
    """Any order of the dimensions."""
    axes = call.axes()
    return [[axes[dim] for dim in call.dims("dims")]]


def transpose(call: Call) -> list[Axes] | None:
    """Swap two dimensions."""
    axes = list(call.axes())
    if axes:
        one, other = call.dim("dim0"), call.dim("dim1")
        axes[one], axes[other] = axes[other], axes[one]
    return [axes]


def turn(call: Call) -> list[Axes] | None:
    """The transpose of a matrix; a vector stays."""
    return [list(reversed(call.axes()))]


def expand(call: Call) -> list[Axes] | None:
    """Repeat values along dimensions of size 1: any order of the copies is as good."""
    axes, shape = call.axes(), call.shapes[0]
    old = [1] * (len(shape) - len(axes)) + list(call["self"].shape)
    padded = [()] * (len(shape) - len(axes)) + axes
    return [[axis if size == before else fresh(size) for axis, size, before in zip(padded, shape, old)]]


def repeat(call: Call) -> list[Axes] | None:
    """Lay copies behind one another."""
    axes = call.axes()
    times = list(call["repeats"])
    padded = [()] * (len(times) - len(axes)) + axes
    return [[(*fresh(count), *axis) for axis, count in zip(padded, times)]]


def select(call: Call) -> list[Axes] | None:
    """Take one index of a dimension."""
    axes, dim = list(call.axes()), call.dim()
    call.hold(axes.pop(dim), "is taken apart")
    return [axes]


def unbind(call: Call) -> list[Axes] | None:
    """Take each index of a dimension."""
    axes, dim = list(call.axes()), call.dim()
    call.hold(axes.pop(dim), "is taken apart")
    return [list(axes) for _ in call.shapes]


def slice_(call: Call) -> list[Axes] | None:
    """Take a range of a dimension."""
    axes, dim = list(call.axes()), call.dim()
    size = call["self"].shape[dim]
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    if (start, stop, step) == (0, size, 1):
        return [axes]
    part = sliced(axes[dim], start, stop) if step == 1 and stop > start else None
    if part is None:
        call.hold(axes[dim], "is cut")
        part = call.new(call.shapes[0][dim], "is cut")
    axes[dim] = part
    return [axes]


def narrow_all(call: Call) -> list[Axes] | None:
    """Cut a dimension into ranges."""
    axes, dim = call.axes(), call.dim()
    out, start = [], 0
    for shape in call.shapes:
        part = sliced(axes[dim], start, start + shape[dim])
        if part is None:
            return None
        out.append([*axes[:dim], part, *axes[dim + 1 :]])
        start += shape[dim]
    return out


def cat(call: Call) -> list[Axes] | None:
    """Lay tensors behind one another along a dimension."""
    tensors = [tensor for tensor in call["tensors"] if tensor.dim() == len(call.shapes[0])]
    dim = call["dim"] % len(call.shapes[0])
    found = [call.table.axes(tensor) for tensor in tensors]
    pieces = joined([axes[dim] for axes in found])
    out = [pieces if place == dim else unify_all(column) for place, column in enumerate(zip(*found))]
    return [out]


def stack(call: Call) -> list[Axes] | None:
    """Lay tensors beside one another along a new dimension."""
    found = [call.table.axes(tensor) for tensor in call["tensors"]]
    out = [unify_all(column) for column in zip(*found)]
    out.insert(call["dim"] % len(call.shapes[0]), call.new(len(found), "is stacked"))
    return [out]


def reverse(call: Call) -> list[Axes] | None:
    """Keep the shape, but mind the order along some dimensions."""
    axes = list(call.axes())
    for dim in call.dims("dims" if "dims" in call.values else "dim"):
        call.hold(axes[dim], "depends on its order")
        axes[dim] = call.new(call.shapes[0][dim], "depends on its order")
    return [axes] * len(call.shapes)


def resample(call: Call) -> list[Axes] | None:
    """Batch and channels stay; the dimensions behind them are pooled or stretched, in their order."""
    found = re.search(r"(\d)d", call.name)
    assert found is not None
    axes = call.axes("self" if "self" in call.values else "input")
    keep = len(axes) - int(found[1])
    for axis in axes[keep:]:
        call.hold(axis, "depends on its order")
    return [axes[:keep] + [call.new(size, "depends on its order") for size in shape[keep:]] for shape in call.shapes]


def pad(call: Call) -> list[Axes] | None:
    """Add a border to some of the last dimensions."""
    axes, shape = list(call.axes()), call.shapes[0]
    widths = list(call["pad"] if "pad" in call.values else call["padding"])
    for place in range(len(widths) // 2):
        dim = len(axes) - 1 - place
        if any(widths[2 * place : 2 * place + 2]):
            call.hold(axes[dim], "gets a border")
            axes[dim] = call.new(shape[dim], "gets a border")
    return [axes]


def constant(call: Call) -> list[Axes] | None:
    """A new tensor with one value everywhere: every order of it is the same."""
    return [[fresh(size) for size in shape] for shape in call.shapes]


def copy(call: Call) -> list[Axes] | None:
    """Write one tensor into another."""
    target, source = call.axes(), call.axes("src")
    padded = [()] * (len(target) - len(source)) + source
    for axis, other in zip(target, padded):
        if other and axis and math.prod(leaf.size for leaf in other) > 1:
            unify(axis, other)
    return [list(target)]


RULES: dict[str, Rule] = {
    **dict.fromkeys("clone _to_copy detach alias contiguous lift_fresh fill_ zero_".split(), same),
    **dict.fromkeys(
        "view reshape _reshape_alias _unsafe_view _reshape_copy unsqueeze unsqueeze_ squeeze squeeze_ flatten".split(),
        reshape,
    ),
    **dict.fromkeys("zeros ones full empty zeros_like ones_like full_like empty_like".split(), constant),
    **dict.fromkeys("new_zeros new_ones new_full new_empty scalar_tensor empty_strided".split(), constant),
    **dict.fromkeys("flip roll cumsum cumprod".split(), reverse),
    **dict.fromkeys("split split_with_sizes".split(), narrow_all),
    **dict.fromkeys("constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d".split(), pad),
    **dict.fromkeys(
        "max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d max_pool3d_with_indices".split(), resample
    ),
    **dict.fromkeys(
        "_adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d".split(), resample
    ),
    "permute": permute,
    "transpose": transpose,
    "t": turn,
    "expand": expand,
    "repeat": repeat,
    "select": select,
    "unbind": unbind,
    "slice": slice_,
    "cat": cat,
    "stack": stack,
    "copy_": copy,
}
