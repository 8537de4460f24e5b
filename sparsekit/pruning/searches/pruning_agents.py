"""One agent per layer learns which units to keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.patterns.base import removed
from sparsekit.pruning.searches.base import ModelProblem, Search
from sparsekit.pruning.searches.trials import Evaluate, blind, chance, judging
from sparsekit.pruning.solvers import Solution


@dataclass(frozen=True)
class PruningAgents(Search):
    """REINFORCE, layer by layer from the first: an agent sees a layer's units and draws which of them stay.

    A draw that keeps ``kept`` of ``units`` earns ``(tolerance - drop) / tolerance * log(units / kept)``, where ``drop``
    is how much worse the model does than the dense one, the layers before it pruned for good. Its probability is
    raised by as much as it earns more than the agent's most probable choice. Nothing is trained in between, unless
    ``evaluate`` does so.

    Where no sparsity is asked for, each unit is drawn by itself (Bernoulli), and in the end those stay that are kept
    with at least even odds, one at the least; no draw counts for less than ``-log(units)``, so that disasters do not
    drown what can be gained. Where one is asked for, every layer loses that fraction: units are drawn
    one after another without replacement, and in the end those with the highest odds stay.

    Args:
        tolerance: the drop at which pruning earns nothing, in units of the loss or of ``evaluate``.
        evaluate: ``evaluate(model) -> float``, higher is better, say the accuracy on held-out data; it may fine-tune,
            as the model is put back after it. None takes minus the mean of ``loss_fn`` over the batches.
        episodes: updates per agent.
        samples: draws per update; each costs one evaluation, and so does the baseline.
        learning_rate: of Adam.
        seed: of the draws and of the agents' weights.

    Raises:
        PruningError: a number is not positive.

    Source: Huang, Zhou, You, Neumann 2018, "Learning to Prune Filters in Convolutional Neural Networks", for agents,
    states, actions and the reward; the baseline is that of Rennie et al. 2017, "Self-critical Sequence Training".
    """

    tolerance: float = 0.1
    evaluate: Evaluate | None = None
    episodes: int = 20
    samples: int = 4
    learning_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.tolerance, self.episodes, self.samples, self.learning_rate)
        if not all(number > 0 for number in numbers):
            raise PruningError(
                "PruningAgents: expected positive tolerance, episodes, samples and learning_rate, got "
                + ", ".join(map(str, numbers))
            )

    @property
    def needs_loss(self) -> bool:
        """Whether the loss function is the judge."""
        return self.evaluate is None

    @property
    def sets_sparsity(self) -> bool:
        """Agents find their own sparsity unless they are told one."""
        return True

    def refuses(self, problem: ModelProblem) -> str | None:
        """Refuse patterns that leave no choice of a number, and losses without a meaning."""
        if problem.pattern.fixes_sparsity:
            return f"learns how many units stay, and {problem.pattern} fixes that"
        return blind(problem, self.evaluate)

    def search(self, problem: ModelProblem) -> dict[str, Solution]:
        """Let one agent after another learn; see :meth:`Search.search`."""
        pruned: dict[str, Tensor] = {}
        found: dict[str, Solution] = {}
        with judging(problem, self.evaluate, self.seed) as judge:
            dense = judge({})
            for target in problem.targets:
                weight = target.weight.detach().clone()

                def drop(keep: Tensor, name: str = target.name, weight: Tensor = weight) -> float:
                    return dense - judge({**pruned, name: weight.masked_fill(~keep, 0.0)})

                keep = self._learnt(problem, weight, drop)
                pruned[target.name] = weight.masked_fill(~keep, 0.0)
                found[target.name] = Solution(pruned[target.name], keep)
        return found

    def _learnt(self, problem: ModelProblem, weight: Tensor, drop: Callable[[Tensor], float]) -> Tensor:
        """What stays of one layer."""
        shape, pattern = tuple(weight.shape), problem.pattern
        units = math.prod(pattern.grid(shape))
        gone = None if problem.open_ended else removed(problem.sparsity, units)
        if units == 0 or gone == 0:
            return torch.ones_like(weight, dtype=torch.bool)
        agent = Agent(features_of(weight, pattern), gone, self.learning_rate, self.seed)

        def spread(kept: Tensor) -> Tensor:
            return pattern.spread(kept.reshape(pattern.grid(shape)).to(weight.device), shape)

        def earned(kept: Tensor) -> float:
            gain = reward(drop(spread(kept)), self.tolerance, units, int(kept.sum()))
            return gain if gone is not None else max(gain, -math.log(units))

        for _ in range(self.episodes):
            baseline = earned(agent.greedy(pattern))
            draws = [agent.draw(pattern) for _ in range(self.samples)]
            agent.update(draws, [earned(legal) - baseline for _, legal in draws])
        return spread(agent.greedy(pattern))


def reward(drop: float, tolerance: float, units: int, kept: int) -> float:
    """``(tolerance - drop) / tolerance * log(units / kept)``."""
    return (tolerance - drop) / tolerance * math.log(units / kept) if kept else 0.0


def features_of(weight: Tensor, pattern: Pattern) -> Tensor:
    """What an agent sees of each unit, ``(units, 3)``: its L1 norm, L2 norm and sum, standardised over the layer."""
    wide = weight.double()
    parts = [wide.abs(), wide.square(), wide]
    sums = torch.stack([pattern.pool(part).reshape(-1) for part in parts], dim=1).float().cpu()
    spread = sums.std(dim=0, correction=0)
    return torch.where(spread > 0, (sums - sums.mean(dim=0)) / spread.clamp(min=1e-30), 0.0)


class Agent(nn.Module):
    """The odds that each unit stays: a small network over its features, plus a logit of the unit's own.

    Args:
        features: ``(units, n)``.
        gone: units that go in each draw; None draws every unit by itself.
        learning_rate: of Adam.
        seed: of weights and draws.
    """

    def __init__(self, features: Tensor, gone: int | None, learning_rate: float, seed: int) -> None:
        super().__init__()
        with torch.inference_mode(False), chance(seed):
            self.features = features.clone()
            self.hidden = nn.Linear(features.shape[1], 16)
            self.out = nn.Linear(16, 1, bias=False)
            nn.init.zeros_(self.out.weight)
            self.own = nn.Parameter(torch.zeros(len(features)))
        self.gone = gone
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)

    def forward(self) -> Tensor:
        """The logits, ``(units,)``."""
        seen: Tensor = self.out(torch.tanh(self.hidden(self.features)))
        return self.own + seen.squeeze(1)

    def greedy(self, pattern: Pattern) -> Tensor:
        """The most probable choice, bool ``(units,)``."""
        logits = self._logits()
        return logits >= 0 if self.gone is None and bool((logits >= 0).any()) else self._highest(logits, pattern)

    def draw(self, pattern: Pattern) -> tuple[Tensor, Tensor]:
        """Draw: the action, whose probability the agent knows, and the legal choice it leads to, bool ``(units,)``.

        The action is a keep vector, or where the count is fixed, the order in which units are taken.
        """
        logits = self._logits()
        uniform = torch.rand(logits.shape, generator=self.generator).clamp(1e-7, 1 - 1e-7)
        if self.gone is None:
            action = uniform < torch.sigmoid(logits)
            return action, action if bool(action.any()) else self._highest(logits, pattern)
        noisy = logits - torch.log(-torch.log(uniform))  # taking the highest is drawing without replacement
        return noisy.argsort(descending=True, stable=True), self._highest(noisy, pattern)

    def log_probability(self, action: Tensor) -> Tensor:
        """Of ``action``, a scalar that knows its gradient."""
        logits = self()
        if self.gone is None:
            return -F.binary_cross_entropy_with_logits(logits, action.float(), reduction="sum")
        ordered = logits[action]
        left = ordered.flip(0).logcumsumexp(dim=0).flip(0)
        probability: Tensor = (ordered - left)[: len(ordered) - self.gone].sum()
        return probability

    def update(self, draws: list[tuple[Tensor, Tensor]], advantages: list[float]) -> None:
        """One step up the expected reward; none where no draw earned more or less than the baseline."""
        if not any(advantages):
            return
        with torch.inference_mode(False), torch.enable_grad():
            gain = sum(
                (a * self.log_probability(action.clone()) for (action, _), a in zip(draws, advantages)), torch.zeros(())
            )
            self.optimizer.zero_grad()
            torch.autograd.backward(-gain / len(draws))
            self.optimizer.step()

    def _logits(self) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self()
        return logits

    def _highest(self, scores: Tensor, pattern: Pattern) -> Tensor:
        """As many of the highest as stay: all but ``gone``, or one."""
        gone = len(scores) - 1 if self.gone is None else self.gone
        return pattern.keep(scores.reshape(1, -1), gone).reshape(-1)
