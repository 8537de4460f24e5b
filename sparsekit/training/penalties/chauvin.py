"""A price on the energy that hidden units put out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsekit.errors import PruningError, SparsekitWarning
from sparsekit.patterns import Filter, Pattern
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.numerics import wide
from sparsekit.training.penalties.outputs import Outputs, mean_over_ranks
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_fraction, check_positive

ENERGIES: dict[int, Callable[[Tensor], Tensor]] = {
    0: lambda squares: squares,
    1: torch.log1p,
    2: lambda squares: squares / (1.0 + squares),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda outputs: outputs,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class ChauvinPenalty(PenaltyMethod):
    """Adds ``strength * sum e(o^2)`` over the units of each layer, with ``e'(o^2) = 1 / (1 + o^2)^n``.

    ``e`` is ``o^2``, ``log(1 + o^2)`` or ``o^2 / (1 + o^2)`` for ``n`` = 0, 1, 2; summed over units, and averaged over
    samples and over the places of a feature map. In the end the units of the least energy go, by a running mean over
    the steps; of gradients that are accumulated, it sees the last part. For the network as it is, a unit is what a
    layer puts out, before any activation function; name one to have it applied first. Which layers are hidden is for
    ``layers=`` to say: the outputs of all that are pruned pay.

    It puts forward hooks on the layers, and removes them when the run ends. Passes in eval mode and those without
    gradients are not seen; nor, as a rule, is what runs in a model compiled before.

    Args:
        strength: price of the energy.
        n: how the price of large outputs flattens: 0 not at all, 1 to a logarithm, 2 to a constant.
        activation: applied to the outputs first: ``"none"``, ``"relu"``, ``"sigmoid"`` or ``"tanh"``.
        momentum: of the running mean, in [0, 1].

    Raises:
        PruningError: an argument is out of its range.

    Source: Chauvin 1988, "A Back-Propagation Algorithm with Optimal Use of Hidden Units".
    """

    strength: float = 1e-2
    n: Literal[0, 1, 2] = 1
    activation: Literal["none", "relu", "sigmoid", "tanh"] = "none"
    momentum: float = 0.9
    default_pattern: ClassVar[Pattern] = Filter()

    def __post_init__(self) -> None:
        check_positive(strength=self.strength)
        check_fraction(momentum=self.momentum)
        if self.n not in ENERGIES:
            raise PruningError(f"n: expected 0, 1 or 2, got {self.n!r}")
        if self.activation not in ACTIVATIONS:
            names = ", ".join(map(repr, ACTIVATIONS))
            raise PruningError(f"activation: expected one of {names}, got {self.activation!r}")

    def prepare(self, state: State) -> None:
        """Watch the layers."""
        watched(state)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor | None:
        """Return the energy of the layer's units in the last forward pass, times the strength."""
        energies = self.energies(watched(state).look().get(site.name, []))
        return None if energies is None else self.strength * energies.sum()

    def energies(self, outputs: list[Tensor]) -> Tensor | None:
        """Return the mean energy of each unit, ``(out,)``; None where the layer did not run."""
        rows = [wide(output) for output in outputs if output.numel()]
        if not rows:
            return None
        values = ACTIVATIONS[self.activation](torch.cat(rows))
        return ENERGIES[self.n](values.square()).mean(dim=0)

    def before_step(self, state: State) -> None:
        """Take the energies of the step into the running means, and let go of the outputs."""
        outputs = watched(state)
        found = {site.name: self.energies(outputs.last.get(site.name, [])) for site in state.sites}
        outputs.clear()
        expect_some(self, state, found.values())
        for site in state.sites:
            now = mean_over_ranks(found[site.name], wide(site.read()).new_zeros(site.shape[0]))
            if now is not None:
                before = site.tensors.get("energy", now)
                site.tensors["energy"] = before + (1.0 - self.momentum) * (now - before)
        means = {site.name: float(site.tensors["energy"].mean()) for site in state.sites if "energy" in site.tensors}
        state.note("energy", means)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the running mean of each unit, shared out over its weights by magnitude."""
        found = {}
        for site in state.sites:
            weight = site.read()
            energy = site.tensors.get("energy")
            found[site.name] = wide(weight).abs() if energy is None else share_by_magnitude(energy, weight)
        return found

    def follow(self, state: State) -> None:
        """Let the masks say what would go now."""
        for site, keep in zip(state.sites, self.final(state).values()):
            site.propose(keep)

    def close(self, state: State) -> None:
        """Remove the hooks."""
        if "outputs" in state.guests:
            state.guests.pop("outputs").close()


def watched(state: State) -> Outputs:
    """Return what the layers put out; watched from now on where they are not, as when a run is taken up again."""
    if "outputs" not in state.guests:
        state.guests["outputs"] = Outputs(state.sites)
    found: Outputs = state.guests["outputs"]
    return found


def expect_some(method: ChauvinPenalty, state: State, found: Iterable[Tensor | None]) -> None:
    """Warn once where a step saw no layer run."""
    if any(value is not None for value in found) or state.numbers.get("missed_outputs"):
        return
    state.numbers["missed_outputs"] = True
    text = f"{method}: expected a forward pass in training mode before step {state.step}, saw no layer run"
    warnings.warn(f"{text}; a model compiled before the run began hides its layers", SparsekitWarning, stacklevel=2)
