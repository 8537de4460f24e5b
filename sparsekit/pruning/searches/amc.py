"""An agent walks through the layers and decides how much of each stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.pruning.searches.base import ModelProblem, Search
from sparsekit.pruning.searches.costs import LayerShape, Wall, layer_costs, layer_shapes, least_squares, walled
from sparsekit.pruning.searches.ddpg import DDPG, Learner
from sparsekit.pruning.searches.trials import Evaluate, Judge, blind, judging
from sparsekit.pruning.solvers import Solution
from sparsekit.pruning.statistics import Gram, ModelStatistic, Needs, Target
from sparsekit.pruning.surveying import surveyed

REWARDS = ("merit", "error_cost")


@dataclass(frozen=True)
class AMC(Search):
    """A DDPG agent chooses the share of units that each layer keeps, under a budget of cost.

    ``sparsity`` is the fraction of the *cost* of all units that goes, not of their number: by default of the
    multiplications of the first batch, where a layer costs in proportion to what it keeps. A wall clips each action so
    that the layers after it can still meet the budget, and so that it is used up to within one unit. Within a layer,
    the units with the lowest scores go. The best of all tried choices is returned. A layer of a single unit stays whole
    and is not counted.

    The agent sees 11 numbers per layer, each scaled to [0, 1]: its place, outputs, inputs, input height and width,
    stride, kernel size and cost, the cost already saved, the cost still to come, and the action before.

    Args:
        evaluate: ``evaluate(model) -> float``, higher is better; None takes minus the mean of ``loss_fn`` over the
            batches.
        reward: ``merit`` is that figure. ``error_cost`` is ``-error * log(cost kept)``, error being 1 less what
            ``evaluate`` says, or the loss; the budget then need not be used up, and no sparsity need be asked for.
        costs: of each layer when dense, by parameter name, say its measured time; None counts multiplications.
        criterion: ranks the units within a layer; for ``Magnitude`` by their L1 norms.
        reconstruct: whether kept weights are solved for by least squares to restore the outputs that each layer had
            for the dense model's inputs.
        lower: the least share of its units that a layer keeps; None takes 0.2, or half of what the budget keeps where
            that is less. One unit stays in any case.
        episodes: masks that are tried; each costs one evaluation.
        warmup: how many of them at random, before the agent decides.
        hidden: width of the agent's networks; 300 in the paper.
        noise: standard deviation of its first explorations.
        learning_rate: of its actor, a tenth of its critic's; 1e-4 in the paper, for 400 episodes.
        seed: of everything that is drawn.

    Raises:
        PruningError: a setting is out of range.

    Source: He, Lin, Liu, Wang, Li, Han 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices",
    section 3.
    """

    evaluate: Evaluate | None = None
    reward: str = "merit"
    costs: Mapping[str, float] | None = field(default=None, hash=False)
    criterion: Criterion = Magnitude()  # noqa: RUF009 - frozen
    reconstruct: bool = False
    lower: float | None = None
    episodes: int = 60
    warmup: int = 15
    hidden: int = 64
    noise: float = 0.5
    learning_rate: float = 1e-3
    seed: int = 0

    counts_units = False

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise PruningError(f"AMC: expected a reward of merit or error_cost, got {self.reward!r}")
        if not (
            self.episodes >= 1 and self.warmup >= 0 and self.hidden >= 1 and min(self.noise, self.learning_rate) > 0
        ):
            raise PruningError(
                f"AMC: expected positive episodes, hidden, noise and learning_rate, and warmup of at least 0, got "
                f"{self.episodes}, {self.hidden}, {self.noise}, {self.learning_rate} and {self.warmup}"
            )
        if not (self.lower is None or 0 <= self.lower < 1):
            raise PruningError(f"AMC: expected lower in [0, 1), got {self.lower}")

    @property
    def needs_loss(self) -> bool:
        """Whether the loss function is the judge, or the criterion asks it."""
        kinds = self.criterion.statistics()
        return self.evaluate is None or any(issubclass(kind, ModelStatistic) and kind.needs_loss for kind in kinds)

    @property
    def sets_sparsity(self) -> bool:
        """With ``error_cost``, the reward says how much goes."""
        return self.reward == "error_cost"

    def refuses(self, problem: ModelProblem) -> str | None:
        """Refuse patterns that leave no choice of a number, scores without a ranking, and losses without a meaning."""
        if problem.pattern.fixes_sparsity:
            return f"chooses how many units stay, and {problem.pattern} fixes that"
        if self.criterion.by_row:
            return f"ranks the units of a whole layer, and the scores of {self.criterion} compare within a row only"
        return blind(problem, self.evaluate)

    def search(self, problem: ModelProblem) -> dict[str, Solution]:
        """Walk the layers again and again; see :meth:`Search.search`."""
        whole = {t.name: Solution(t.weight.detach().clone(), _all(t.weight)) for t in problem.targets}
        if problem.sparsity == 0 and not problem.open_ended:
            return whole
        shapes = layer_shapes(problem)
        costs = layer_costs(problem, shapes, self.costs)
        layers = Layers(problem, self.criterion, self.reconstruct)
        names = [target.name for target in problem.targets if layers.units[target.name] > 1]
        if not names:
            return whole
        units = [layers.units[name] for name in names]
        unit_costs = [costs[name] * layers.covered[name] / layers.units[name] for name in names]
        wall = walled(units, unit_costs, 1.0 - problem.sparsity, self.lower)
        if self.reward == "error_cost":
            wall = Wall(units, unit_costs, wall.least, wall.budget, spends=False)
        with judging(problem, self.evaluate, self.seed) as judge:
            counts = self._explore(Walk(names, [shapes[name] for name in names], wall), layers, judge)
        return {**whole, **{name: layers.solution(name, kept) for name, kept in zip(names, counts)}}

    def _explore(self, walk: Walk, layers: Layers, judge: Judge) -> tuple[int, ...]:
        """Try as many choices as there are episodes; return the best."""
        agent = DDPG(FEATURES, 100 * len(walk.names), Learner(self.hidden, self.noise, self.learning_rate), self.seed)
        earned: dict[tuple[int, ...], float] = {}
        for episode in range(self.episodes):
            decide = agent.act if episode >= self.warmup else lambda state: agent.guess()
            states: list[Tensor] = []
            actions: list[float] = []
            counts: list[int] = []
            for layer in range(len(walk.names)):
                states.append(walk.state(layer, counts))
                counts.append(walk.wall.kept(layer, walk.spent(counts), decide(states[-1])))
                actions.append(counts[-1] / walk.wall.units[layer])
            key = tuple(counts)
            if key not in earned:
                merit = judge({name: layers.solution(name, kept).weight for name, kept in zip(walk.names, counts)})
                earned[key] = self._reward(merit, walk.spent(counts))
            agent.remember(states, actions, earned[key])
            if episode + 1 >= self.warmup:
                agent.learn(len(walk.names))
        return max(earned, key=lambda key: earned[key])

    def _reward(self, merit: float, kept: float) -> float:
        """What a choice earns."""
        if self.reward == "merit":
            return merit
        error = -merit if self.evaluate is None else 1.0 - merit
        return -error * math.log(kept)


FEATURES = 11


@dataclass(frozen=True)
class Walk:
    """The way through the layers, and what the agent sees on it."""

    names: Sequence[str]
    shapes: Sequence[LayerShape]
    wall: Wall

    def spent(self, counts: Sequence[int]) -> float:
        """What the units kept so far cost."""
        return sum(kept * cost for kept, cost in zip(counts, self.wall.unit_costs))

    def state(self, layer: int, counts: Sequence[int]) -> Tensor:
        """The 11 numbers of ``layer``, when ``counts`` were kept before it."""
        costs = [count * cost for count, cost in zip(self.wall.units, self.wall.unit_costs)]
        total = sum(costs)
        sizes = ("outputs", "inputs", "height", "width", "stride", "kernel")
        places: list[float] = [float(place) for place in range(len(costs))]
        columns = [places, *([float(getattr(shape, size)) for shape in self.shapes] for size in sizes), costs]
        scaled = [(c[layer] - min(c)) / (max(c) - min(c)) if max(c) > min(c) else 0.0 for c in columns]
        reduced = sum(costs[:layer]) - self.spent(counts)
        before = counts[-1] / self.wall.units[layer - 1] if layer else 1.0
        return torch.tensor([*scaled, reduced / total, sum(costs[layer + 1 :]) / total, before])


class Layers:
    """The units of every layer, ranked once, and what each layer becomes when it keeps a number of them."""

    def __init__(self, problem: ModelProblem, criterion: Criterion, reconstruct: bool) -> None:
        needs: Needs = tuple(dict.fromkeys((*criterion.statistics(), *((Gram,) if reconstruct else ()))))
        self.pattern = problem.pattern
        self.targets: dict[str, Target] = {target.name: target for target in problem.targets}
        self.ranks: dict[str, Tensor] = {}
        self.grams: dict[str, Tensor] = {}
        self.known: dict[tuple[str, int], Solution] = {}
        for target, stats in surveyed(problem, needs):
            wide = target.weight.detach().to(torch.promote_types(target.weight.dtype, torch.float32))
            self.ranks[target.name] = self.pattern.pool(criterion.score(wide, stats))
            if reconstruct:
                self.grams[target.name] = stats[Gram].sum
        self.units = {name: ranks.numel() for name, ranks in self.ranks.items()}
        self.covered = {name: self._covered(name) for name in self.ranks}

    def solution(self, name: str, kept: int) -> Solution:
        """The weight and mask of a layer that keeps ``kept`` units."""
        if (name, kept) not in self.known:
            ranks, weight = self.ranks[name], self.targets[name].weight.detach()
            stay = self.pattern.keep(ranks.reshape(1, -1), ranks.numel() - kept).reshape(ranks.shape)
            keep = self.pattern.spread(stay, tuple(weight.shape))
            solved = least_squares(weight, keep, self.grams[name]) if self.grams and kept < ranks.numel() else weight
            self.known[name, kept] = Solution(solved.masked_fill(~keep, 0.0), keep)
        return self.known[name, kept]

    def _covered(self, name: str) -> float:
        """The share of a weight that its units cover; the rest always stays."""
        none = torch.zeros(self.ranks[name].shape, dtype=torch.bool, device=self.ranks[name].device)
        return 1.0 - float(self.pattern.spread(none, tuple(self.targets[name].weight.shape)).float().mean())


def _all(weight: Tensor) -> Tensor:
    """A mask that keeps everything."""
    return torch.ones_like(weight, dtype=torch.bool)
