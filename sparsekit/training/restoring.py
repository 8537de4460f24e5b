"""A run as plain tensors and numbers, and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.state import State

VERSION = 1


def snapshot(state: State, method: str) -> dict[str, Any]:
    """Return all that ``state`` remembers, in types that ``torch.load`` reads with ``weights_only=True``."""
    return {
        "version": VERSION,
        **_identity(state, method),
        "step": state.step,
        "numbers": copy.deepcopy(state.numbers),
        "tensors": copies(state.tensors),
        "notes": {name: dict(series) for name, series in state.notes.items()},
        "generator": state.generator.get_state(),
        "gate_optimizer": copy.deepcopy(state.gate_optimizer.state_dict()) if state.gate_optimizer else None,
        "sites": {
            site.name: {
                "weight": site.read(),
                "keep": site.keep.clone(),
                "held": site.held,
                "tensors": copies(site.tensors),
            }
            for site in state.sites
        },
    }


def _identity(state: State, method: str) -> dict[str, Any]:
    """What two runs must have in common for one to go on where the other stopped."""
    return {
        "method": method,
        "pattern": str(state.pattern),
        "sparsity": state.sparsity,
        "steps": state.steps,
        "allocation": repr(state.allocation),
        "layers": [f"{site.name} {' x '.join(map(str, site.shape))}" for site in state.sites],
    }


@torch.no_grad()
def restore(state: State, saved: Mapping[str, Any], method: str) -> None:
    """Bring ``state`` to what :func:`snapshot` saw.

    Raises:
        PruningError: ``saved`` is none, or of another method, pattern, budget or model. Nothing has changed then.
    """
    if not isinstance(saved, Mapping) or saved.get("version") != VERSION:
        raise PruningError("load_state_dict: expected what a run's state_dict returned, got something else")
    for word, here in _identity(state, method).items():
        if saved[word] != here:
            raise PruningError(f"load_state_dict: expected a run with {word} {here}, got one with {saved[word]}")
    state.step = saved["step"]
    state.numbers = copy.deepcopy(saved["numbers"])
    state.notes = {name: dict(series) for name, series in saved["notes"].items()}
    state.generator.set_state(saved["generator"].cpu())  # wherever torch.load has mapped it
    _fill(state.tensors, saved["tensors"])
    for site in state.sites:
        own = saved["sites"][site.name]
        site.write(own["weight"].to(site.keep.device))
        site.propose(own["keep"].to(site.keep.device, copy=True))
        site.held = own["held"]
        _fill(site.tensors, {name: value.to(site.keep.device) for name, value in own["tensors"].items()})
    if state.gate_optimizer is not None and saved["gate_optimizer"] is not None:
        state.gate_optimizer.load_state_dict(copy.deepcopy(saved["gate_optimizer"]))  # it would step these tensors


def _fill(own: dict[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Make ``own`` equal ``saved``: in place where a tensor is there already, for an optimizer may hold it."""
    for name in set(own) - set(saved):
        del own[name]
    for name, value in saved.items():
        if name in own and own[name].shape == value.shape and own[name].dtype == value.dtype:
            own[name].copy_(value)
        else:
            own[name] = value.clone()


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors``, detached and copied."""
    return {name: value.detach().clone() for name, value in tensors.items()}
