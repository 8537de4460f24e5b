"""What a mask is worth without its places, or without its weights: the controls of a pruning method."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from sparsekit.batches import expect_module
from sparsekit.errors import LayerError
from sparsekit.mask import Mask
from sparsekit.pruning.seeding import generator


def shuffle_masks(masks: Mapping[str, Mask], seed: int = 0) -> dict[str, Mask]:
    """Shuffle each mask inside its layer, by the units of its pattern: the layers keep their sparsities alone.

    N:M masks are shuffled inside each group. Other patterns that fix their own sparsity give a random legal mask. The
    result depends on the seed and the parameters' names.

    Source: Frankle, Dziugaite, Roy, Carbin 2020, "Pruning Neural Networks at Initialization: Why Are We Missing the
    Mark?".
    """
    return {
        name: Mask(mask.pattern.shuffle(mask.keep, generator(seed, name)), mask.pattern) for name, mask in masks.items()
    }


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Mask]) -> None:
    """Set every weight to zero that its mask removes; the others stay bit for bit.

    Args:
        model: any module; parameters keep their identity.
        masks: by parameter name, as ``prune`` returns them.

    Raises:
        LayerError: there is no parameter of that name.
        MaskError: a mask has another shape or device than its parameter. Then nothing has changed.
    """
    for parameter, mask in _parameters(model, masks):
        parameter.masked_fill_(~mask.keep, 0.0)


@torch.no_grad()
def reinitialise(model: nn.Module, masks: Mapping[str, Mask], seed: int = 0) -> None:
    """Initialise each masked layer again by its own ``reset_parameters``, its bias included, and apply the masks.

    The numbers depend on the seed and the parameters' names, not on the global generator, which stays as it is.

    Args:
        model: any module; parameters keep their identity.
        masks: by parameter name, as ``prune`` returns them.
        seed: of the new weights.

    Raises:
        LayerError: there is no parameter of that name, or its layer has no ``reset_parameters``.
        MaskError: a mask has another shape or device than its parameter. Then nothing has changed.

    Source: Frankle, Carbin 2018, "The Lottery Ticket Hypothesis", the control of randomly reinitialised tickets.
    """
    found = _parameters(model, masks)
    resets: list[Callable[[], None]] = []
    for name in masks:
        layer = model.get_submodule(name.rpartition(".")[0])
        reset = getattr(layer, "reset_parameters", None)
        if not callable(reset):
            raise LayerError(f"{name}: expected a layer with reset_parameters, got a {type(layer).__name__}")
        resets.append(reset)
    for name, reset, (parameter, mask) in zip(masks, resets, found):
        with _drawing(generator(seed, name), parameter.device):
            reset()
        parameter.masked_fill_(~mask.keep, 0.0)


def _parameters(model: nn.Module, masks: Mapping[str, Mask]) -> list[tuple[nn.Parameter, Mask]]:
    """Each mask with its parameter, all checked."""
    expect_module(model)
    known = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise LayerError(f"masks: expected names of parameters, got {name!r}, which is not there{hint}")
        mask.check(known[name], name)
    return [(known[name], mask) for name, mask in masks.items()]


@contextmanager
def _drawing(source: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let the global generators draw what ``source`` is seeded with; then put them back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        torch.default_generator.manual_seed(source.initial_seed())
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(source.initial_seed())
        yield
