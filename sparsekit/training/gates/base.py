"""What a gated method is: the model runs on weights that a formula makes from learned weights and gates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from sparsekit.training.base import TrainingMethod
from sparsekit.training.site import Site
from sparsekit.training.state import State

LATENT = "latent"
GATE = "gate."
NOISE = "noise."


class GatedMethod(TrainingMethod):
    """Trains weights ``w`` and gates ``g`` through the weights ``f(w, g)`` that the model runs on.

    Between two steps the model holds ``f(w, g)``. When its gradient is there, the run applies the chain rule to ``f``,
    shows the optimizer ``w`` with its own gradient, lets it step, and puts the new ``f(w, g)`` into the model. Gates
    have an optimizer of their own. So the model gets no hooks, and gradient scaling, accumulation, DDP and compiled
    models work as they do without gates. The cost of gates is added in the same place: it needs no ``run.penalty()``.
    """

    learning_rate: float
    """Of the gates; subclasses with gates have it as a field."""

    noisy: ClassVar[bool] = False
    """Whether :meth:`draw` draws noise for every step."""

    def gates(self, state: State, site: Site, weight: Tensor) -> dict[str, Tensor]:
        """Return the first gates of ``site``, by a name of their own; none by default."""
        return {}

    def draw(self, state: State, site: Site) -> dict[str, Tensor]:
        """Draw the noise of the next step, by a name of its own, with `state.uniform` and `state.normal`."""
        return {}

    def anneal(self, state: State, step: int) -> None:
        """Set in ``state.numbers`` what depends on the step alone, before the weights of the step ``step`` are made.

        The weights of a step are made when the step before it ends, and their gradient is taken when it begins: what
        :meth:`effective` reads from ``state.step`` would differ between the two, what it reads from here does not.
        """

    @abstractmethod
    def effective(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Return what the model runs on, of the weight's shape, differentiable in ``weight`` and ``gates``.

        A straight-through estimate is written as ``soft + (hard - soft).detach()``.

        Args:
            state: the run.
            site: the layer; ``site.tensors["noise.NAME"]`` is what :meth:`draw` drew, absent in evaluation.
            weight: the learned weight.
            gates: the learned gates.
        """

    def cost(self, state: State, site: Site, weight: Tensor, gates: Mapping[str, Tensor]) -> Tensor | None:
        """Return what is added to the loss for one layer, differentiable in both; None for nothing."""
        return None

    def constrain(self, site: Site, gates: Mapping[str, Tensor]) -> None:
        """Bring gates back to where they are defined, in place, after their step."""

    def make_optimizer(self, gates: list[Tensor]) -> Optimizer:
        """Return what learns the gates: Adam."""
        return Adam(gates, lr=self.learning_rate)

    def prepare(self, state: State) -> None:
        """Remember the weights, make the gates, and show the model its first effective weights."""
        self.anneal(state, 0)
        learned = []
        for site in state.sites:
            weight = site.tensors[LATENT] = site.read()
            made = {GATE + name: gate.contiguous() for name, gate in self.gates(state, site, weight).items()}
            site.tensors.update(made)
            learned += list(made.values())
        if learned:
            state.gate_optimizer = self.make_optimizer(learned)
        self.show(state)

    def before_step(self, state: State) -> None:
        """Turn the effective weights' gradient into those of weights and gates; show the optimizer the weights."""
        for site in state.sites:
            self._pull_back(state, site)
            site.write(site.tensors[LATENT])

    def after_step(self, state: State) -> None:
        """Take the new weights, step the gates, and show the model the new effective weights."""
        self.take(state)
        if state.gate_optimizer is not None:
            state.gate_optimizer.step()
            for site in state.sites:
                self.constrain(site, gates_of(site))
        self.anneal(state, state.step + 1)
        self.show(state)

    def take(self, state: State) -> None:
        """Remember the weights that the optimizer has changed."""
        for site in state.sites:
            site.tensors[LATENT].copy_(site.read())

    def show(self, state: State) -> None:
        """Draw noise and write the effective weights into the model; the mask follows what the gates say now."""
        for site in state.sites:
            for name, noise in self.draw(state, site).items():
                site.tensors[NOISE + name] = noise
            site.write(self.effective(state, site, site.tensors[LATENT], gates_of(site)))

    def follow(self, state: State) -> None:
        """Let the masks say what would go now; nothing is held."""
        keeps = self.final(state)
        for site in state.sites:
            site.propose(keeps[site.name])

    @contextmanager
    def evaluating(self, state: State) -> Iterator[None]:
        """Show the model its effective weights without noise, with what would go set to zero."""
        before = {site.name: site.read() for site in state.sites}
        keeps = self.final(state)
        try:
            with torch.no_grad():
                for site in state.sites:
                    site.write(self.settled(state, site).masked_fill(~keeps[site.name], 0.0))
            yield
        finally:
            for site in state.sites:
                site.write(before[site.name])

    def settled(self, state: State, site: Site) -> Tensor:
        """Return the effective weight without noise: what is kept in the end."""
        noise = {name: site.tensors.pop(name) for name in list(site.tensors) if name.startswith(NOISE)}
        try:
            return self.effective(state, site, site.tensors[LATENT], gates_of(site)).detach()
        finally:
            site.tensors.update(noise)

    def harden(self, state: State) -> None:
        """Write the effective weights without noise, and hold the final masks."""
        keeps = self.final(state)
        for site in state.sites:
            site.write(self.settled(state, site))
        state.hold(keeps)

    def abandon(self, state: State) -> None:
        """Leave the effective weights without noise."""
        self.follow(state)
        for site in state.sites:
            site.write(self.settled(state, site).masked_fill(~site.keep, 0.0))

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return what final masks are ranked by: the magnitude of the learned weights."""
        return {site.name: site.tensors[LATENT].abs() for site in state.sites}

    def _pull_back(self, state: State, site: Site) -> None:
        """Write the gradients of weight and gates, given that of the effective weight."""
        weight = site.tensors[LATENT].detach().requires_grad_()
        gates = {name: gate.detach().requires_grad_() for name, gate in gates_of(site).items()}
        inputs = [weight, *gates.values()]
        with torch.enable_grad():
            total = (self.effective(state, site, weight, gates) * site.gradient()).sum()
            cost = self.cost(state, site, weight, gates)
            found = torch.autograd.grad(total if cost is None else total + cost, inputs, allow_unused=True)
        slopes = [torch.zeros_like(value) if slope is None else slope for value, slope in zip(inputs, found)]
        site.set_gradient(slopes[0])
        for name, slope in zip(gates, slopes[1:]):
            site.tensors[GATE + name].grad = slope


def gates_of(site: Site) -> dict[str, Tensor]:
    """Return the gates of ``site`` by their own names."""
    return {name.removeprefix(GATE): value for name, value in site.tensors.items() if name.startswith(GATE)}
