"""Every way that torch has to run a dense convolutional network: what zeros have to beat."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sparsekit.kernels.timing import fastest

FIRST_LOOK_S = 0.5
CONTENDERS = 1.5
"""Only ways within this factor of the fastest at first look stay in the race."""

Call = Callable[[], Tensor]


def dense_ways(model: nn.Module, x: Tensor, *, inductor: bool = False) -> dict[str, Call]:
    """Return the ways to compute ``model(x)``, by name; what this torch cannot do is left out.

    NHWC in a name says that images and weights are in channels_last order.

    Args:
        model: in eval mode, from a tensor to a tensor.
        x: images ``(batch, channels, h, w)``.
        inductor: compile by ``torch.compile`` with constants folded too, which takes half a minute for 50 layers.
    """
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_last = x.contiguous(memory_format=torch.channels_last)
    ways: dict[str, Call] = {"eager": partial(model, x), "eager NHWC": partial(last, x_last)}
    ways |= dict(_frozen(model, x, "")) | dict(_frozen(last, x_last, " NHWC"))
    if inductor:
        ways |= dict(_inductor(model, x))
    return ways


def contenders(ways: Mapping[str, Call]) -> dict[str, Call]:
    """Return those of ``ways`` that could be the fastest, by a short measurement."""
    with torch.inference_mode():
        times = fastest(ways, FIRST_LOOK_S)
    return {name: ways[name] for name in times if times[name] <= CONTENDERS * min(times.values())}


def _frozen(model: nn.Module, x: Tensor, layout: str) -> Iterator[tuple[str, Call]]:
    """Yield ``model`` with its constants folded, and with its layers handed to oneDNN besides."""
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns of Python numbers, and of its own age
            traced = torch.jit.freeze(torch.jit.trace(model, x, check_trace=False))  # type: ignore[no-untyped-call]
            optimised = torch.jit.optimize_for_inference(traced)
            found = {f"frozen{layout}": partial(traced, x), f"frozen for oneDNN{layout}": partial(optimised, x)}
            for call in found.values():
                call()
    except RuntimeError:
        return
    yield from found.items()


def _inductor(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Call]]:
    """Yield ``model`` compiled by torch; it needs a C++ compiler, and without one nothing is yielded."""
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(model))
    try:
        with torch._inductor.config.patch(freezing=True), torch.inference_mode():
            compiled(x)
    except RuntimeError:
        return
    yield "torch.compile, frozen", partial(compiled, x)
