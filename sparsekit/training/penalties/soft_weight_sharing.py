"""A mixture of Gaussians over the weights, one of them at zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam

from sparsekit.errors import PruningError
from sparsekit.training.penalties.base import PenaltyMethod
from sparsekit.training.penalties.numerics import longest_step, wide
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive
from sparsekit.training.units import gather, owners, spread

LEARNED = ("mean", "log_deviation", "logit")
REACH = 2.0
"""How far from zero the other components start to spread, in root mean squares of the layer."""


@dataclass(frozen=True)
class SoftWeightSharing(PenaltyMethod):
    """Adds ``-strength * sum log p(w)``, where ``p`` is a mixture of Gaussians that is learned with the weights.

    So weights gather around a few values. One component stays at the mean 0 with a fixed, high share; the weights that
    it is most responsible for go. Each layer has a mixture of its own, for layers differ in scale; means and deviations
    are learned by an Adam of their own, in units of the layer's root mean square at the start.

    Two bounds are variants: the component at zero is never wider than another, or it would claim the largest weights;
    and no component is narrower than ``floor``, nor so narrow that one gradient step would overshoot its mean, for the
    likelihood of a mixture grows without bound as a component narrows.

    A sparsity that is far above what the component at zero has gathered takes weights that other components hold.

    Args:
        components: of the mixture, with the one at zero; at least 2.
        zero_share: of the component at zero, in (0, 1).
        strength: of the penalty; 1 over the number of training samples is a prior, where the loss is a mean.
        floor: smallest deviation, in root mean squares of the layer.
        learning_rate: of the mixture.

    Raises:
        PruningError: an argument is out of its range.

    Source: Nowlan, Hinton 1992, "Simplifying Neural Networks by Soft Weight-Sharing"; the component at zero with a
    fixed share as in Ullrich, Meeds, Welling 2017, "Soft Weight-Sharing for Neural Network Compression".
    """

    components: int = 5
    zero_share: float = 0.9
    strength: float = 3e-5
    floor: float = 0.05
    learning_rate: float = 0.01
    learns_sparsity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(strength=self.strength, floor=self.floor, learning_rate=self.learning_rate)
        if not isinstance(self.components, int) or self.components < 2:
            raise PruningError(f"components: expected a whole number of at least 2, got {self.components!r}")
        if not 0 < self.zero_share < 1:
            raise PruningError(f"zero_share: expected a fraction in (0, 1), got {self.zero_share!r}")

    def prepare(self, state: State) -> None:
        """Spread the components over each layer's weights."""
        learned: list[Tensor] = []
        others = self.components - 1
        for site in state.sites:
            weight = wide(site.read())
            size = weight.square().mean().sqrt() if weight.numel() else weight.sum()
            site.tensors["scale"] = torch.where(size > 0, size, torch.ones_like(size))
            places = (torch.arange(others, device=weight.device, dtype=weight.dtype) + 0.5) / others
            site.tensors["mean"] = REACH * (2.0 * places - 1.0)
            deviations = torch.full((others + 1,), REACH / others, device=weight.device, dtype=weight.dtype)
            deviations[0] /= 2.0
            site.tensors["log_deviation"] = deviations.log()
            site.tensors["logit"] = torch.zeros_like(places)
            learned += [site.tensors[name] for name in LEARNED]
        state.gate_optimizer = Adam(learned, lr=self.learning_rate)

    def cost(self, state: State, site: Site, weight: Tensor) -> Tensor:
        """Return the negative log-likelihood of one layer's weights, times the strength; the mixture is a constant."""
        return -self.strength * self.log_joint(site, wide(weight), mixture_of(site)).logsumexp(0).sum()

    def log_joint(self, site: Site, weight: Tensor, mixture: Mapping[str, Tensor]) -> Tensor:
        """Return ``log(share * density)`` of each component at each weight, ``(components, *weight.shape)``.

        Minus its ``logsumexp`` over the components it is the logarithm of their responsibilities.
        """
        scale, deviation = site.tensors["scale"], mixture["log_deviation"].exp() * site.tensors["scale"]
        mean = torch.cat([mixture["mean"].new_zeros(1), mixture["mean"] * scale])
        rest = math.log1p(-self.zero_share) + mixture["logit"].log_softmax(0)
        share = torch.cat([rest.new_full((1,), math.log(self.zero_share)), rest])
        constant = share - deviation.log() - 0.5 * math.log(2.0 * math.pi)
        distance = (weight[..., None] - mean) / deviation
        return (constant - 0.5 * distance.square()).movedim(-1, 0)

    def before_step(self, state: State) -> None:
        """Let the mixtures take their step towards the weights as they are."""
        assert state.gate_optimizer is not None
        for site in state.sites:
            mixture = {name: value.detach().requires_grad_() for name, value in mixture_of(site).items()}
            with torch.enable_grad():
                loss = -self.log_joint(site, wide(site.read()), mixture).logsumexp(0).sum() / max(1, site.keep.numel())
                slopes = torch.autograd.grad(loss, list(mixture.values()))
            for name, slope in zip(mixture, slopes):
                site.tensors[name].grad = slope
        state.gate_optimizer.step()
        shortest = math.sqrt(self.strength * longest_step(state))
        for site in state.sites:
            self.constrain(site, shortest)
        widths = {
            site.name: float(site.tensors["log_deviation"][0].exp() * site.tensors["scale"]) for site in state.sites
        }
        state.note("zero_deviation", widths)

    def constrain(self, site: Site, shortest: float) -> None:
        """Bring deviations to at least the floor and ``shortest``, and that at zero to no more than the others."""
        widths = site.tensors["log_deviation"]
        widths.clamp_(min=max(math.log(self.floor), math.log(max(shortest / float(site.tensors["scale"]), 1e-30))))
        widths[0] = torch.minimum(widths[0], widths[1:].min())

    def margin(self, site: Site) -> Tensor:
        """Return by how much the most responsible of the other components beats that at zero, as log odds."""
        joint = self.log_joint(site, wide(site.read()), mixture_of(site))
        return joint[1:].amax(0) - joint[0]

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return the margins of what belongs to the component at zero; else the distance from it in deviations.

        Where more has to go than belongs there, the margins would spare what is close to a narrow component.
        """
        found = {}
        for site in state.sites:
            margin, width = self.margin(site), site.tensors["log_deviation"][0].exp() * site.tensors["scale"]
            found[site.name] = torch.where(margin < 0, margin, wide(site.read()).abs() / width)
        return found

    def decide(self, state: State, site: Site) -> Tensor:
        """Return the units whose margins are not negative in sum."""
        owner = owners(state.pattern, site.shape, site.keep.device)
        margins = self.margin(site)
        stays = gather(margins, owner) >= 0
        return spread(stays.to(margins.dtype), owner) > 0

    def follow(self, state: State) -> None:
        """Let the masks say what would go now."""
        for site, keep in zip(state.sites, self.final(state).values()):
            site.propose(keep)


def mixture_of(site: Site) -> dict[str, Tensor]:
    """Return what is learned of the layer's mixture, by name."""
    return {name: site.tensors[name] for name in LEARNED}
