"""Learn how much of each row goes, block by block, by gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from sparsekit.errors import PruningError
from sparsekit.patterns import Pattern
from sparsekit.patterns.base import removed
from sparsekit.pruning.blocks import Block, Call, calls_of, find_blocks, in_order
from sparsekit.pruning.budget import fit, shared_out
from sparsekit.pruning.calibration import survey
from sparsekit.pruning.criteria import Wanda
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.searches.base import Search
from sparsekit.pruning.seeding import generator
from sparsekit.pruning.solvers import Solution
from sparsekit.pruning.statistics import InputNorm, LayerStatistics, ModelView, Target
from sparsekit.pruning.statistics.backward import differentiable

SPREAD = 0.1
"""Standard deviation of the rates that learning starts with."""


@dataclass(frozen=True)
class BESA(Search):
    """Blockwise: learn a sparsity per output row so that the block's output changes least.

    Each row has a softmax over candidate rates. In the order of ``|w_ij| * ||x_j||_2`` within a row, the unit at rank
    ``r`` of ``n`` goes with the probability that the rate is above ``r / n``; forward, exactly the expected share goes,
    lowest ranks first, and gradients pass to the probabilities as if they were the mask. The loss is the squared error
    of the block's output, relative to its square, plus ``balance * (mean rate - sparsity)^2``. Blocks come in the order
    of execution, behind the pruned blocks before them; each then gives exactly its part of the budget, all its rows
    moved by one common amount, so that the total is exact. Weights that stay are not changed.

    A block is one of the repeated modules of a model (see :func:`~sparsekit.pruning.blocks.find_blocks`); a layer
    outside of them is a block by itself, and a model without them is one block.

    Args:
        rates: candidates besides 0, evenly spaced up to 1.
        epochs: passes over the batches per block.
        learning_rate: of Adam, on the logits.
        balance: weight of the penalty on missing the sparsity.
        row_wise: rows have rates of their own; otherwise those of a layer share one.
        dense_targets: compare with the output of the block in the dense model, instead of with that of the dense block
            on the inputs that it gets from the pruned blocks.
        seed: of the order of batches.

    Raises:
        PruningError: an argument is out of its range.

    Source: Xu et al. 2024, "BESA: Pruning Large Language Models with Blockwise Parameter-Efficient Sparsity
    Allocation". Adam and the starting point are ours.
    """

    rates: int = 100
    epochs: int = 5
    learning_rate: float = 0.1
    balance: float = 5.0
    row_wise: bool = True
    dense_targets: bool = False
    seed: int = 0
    counts_units: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rates < 2 or self.epochs < 0 or not self.learning_rate > 0 or self.balance < 0:
            raise PruningError(
                f"BESA: expected rates >= 2, epochs >= 0, learning_rate > 0 and balance >= 0, got {self.rates}, "
                f"{self.epochs}, {self.learning_rate} and {self.balance}"
            )

    @property
    def needs_loss(self) -> bool:
        """False: blocks are judged by their own outputs."""
        return False

    def refuses(self, problem: ModelProblem) -> str | None:
        """Refuse patterns that leave nothing to learn; see :meth:`Search.refuses`."""
        if problem.pattern.fixes_sparsity:
            return f"learns how much of each row goes, and {problem.pattern} fixes that"
        return None

    def search(self, problem: ModelProblem) -> dict[str, Solution]:
        """Solve block after block; see :meth:`Search.search`."""
        dense = {target.name: target.weight.detach().clone() for target in problem.targets}
        keeps: dict[str, Tensor] = {}
        with differentiable(problem):
            blocks, outputs = in_order(problem, find_blocks(problem.model, problem.targets), keep=self.dense_targets)
            units = done = gone = 0
            total = sum(_units(problem.pattern, target) for target in problem.targets)
            try:
                for block in blocks:
                    units += sum(_units(problem.pattern, target) for target in block.targets)
                    due = removed(problem.sparsity, total) * units // max(1, total)
                    gone, done = due - done, due
                    task = _Task(self, problem, block, calls_of(problem, block) if gone else [])
                    keeps |= task.solve(outputs[block.name] if self.dense_targets else None, gone)
                    with torch.no_grad():
                        for target in block.targets:
                            target.weight.mul_(keeps[target.name])
            finally:
                with torch.no_grad():
                    for target in problem.targets:
                        target.weight.copy_(dense[target.name])
        return {name: Solution(dense[name].masked_fill(~keep, 0.0), keep) for name, keep in keeps.items()}


class Rates:
    """The learned sparsity of the rows of one layer.

    Args:
        units: scores ``(rows, n)``, higher = keep; ties go to the lower index.
        count: candidate rates besides 0.
        sparsity: expected rate of every row to begin with.
        row_wise: rows have logits of their own.
    """

    def __init__(self, units: Tensor, count: int, sparsity: float, row_wise: bool = True) -> None:
        rows, n = units.shape
        order = units.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(n - 1, -1, -1, device=units.device).expand(rows, n)
        self.rank = torch.empty_like(order).scatter_(1, order, places)
        self.grid = torch.linspace(0.0, 1.0, count + 1, device=units.device)
        self.first = self.rank * count // max(1, n) + 1  # the lowest rate that covers a rank
        start = _logits_for(self.grid, sparsity)
        self.logits = start.repeat(rows if row_wise else 1, 1).requires_grad_(True)

    def shares(self) -> Tensor:
        """Probability of each candidate rate, ``(rows, rates)``."""
        return self.logits.softmax(dim=1).expand(len(self.rank), -1)

    def expected(self) -> Tensor:
        """The expected rate of each row."""
        return self.shares() @ self.grid

    def probabilities(self) -> Tensor:
        """Probability ``(rows, n)`` of each unit to go: that of all rates that cover its rank."""
        above = self.shares().flip(1).cumsum(1).flip(1)
        return above.gather(1, self.first)

    def keep(self) -> Tensor:
        """1 where a unit stays and 0 where it goes, with the gradient of the probability to stay."""
        staying = 1.0 - self.probabilities()
        gone = (self.expected().detach() * self.rank.shape[1]).round()
        hard = (self.rank >= gone[:, None]).to(staying.dtype)
        return hard + (staying - staying.detach())  # the difference is exactly 0


class _Task:
    """One block to prune."""

    def __init__(self, method: BESA, problem: ModelProblem, block: Block, calls: list[dict[str, Any]]) -> None:
        self.method, self.pattern, self.block, self.calls = method, problem.pattern, block, calls
        self.sparsity = problem.sparsity
        self.caller = Call(block.module)
        self.names = {id(weight): name for name, weight in self.caller.named_parameters()}
        self.places: dict[str, Tensor] = {}
        self.rates: dict[str, Rates] = {}

    def solve(self, outputs: Sequence[Tensor] | None, gone: int) -> dict[str, Tensor]:
        """Return what stays of each target: all but ``gone`` units of the block."""
        if not gone:
            return {target.name: torch.ones_like(target.weight, dtype=torch.bool) for target in self.block.targets}
        stats = survey(ModelView(self.caller, self.block.targets, self.calls), (InputNorm,))
        for target in self.block.targets:
            self._rank(target, stats[target.name])
        if outputs is None:
            with torch.no_grad():
                outputs = [self.caller(**call) for call in self.calls]
        self._learn(outputs)
        return self._settle(gone)

    def _rank(self, target: Target, stats: LayerStatistics) -> None:
        weight = target.weight.detach()
        units = self.pattern.pool(Wanda().score(weight.to(torch.promote_types(weight.dtype, torch.float32)), stats))
        self.places[target.name] = _places(self.pattern, target)
        self.rates[target.name] = Rates(units, self.method.rates, self.sparsity, self.method.row_wise)

    def _learn(self, outputs: Sequence[Tensor]) -> None:
        logits = [rates.logits for rates in self.rates.values() if rates.rank.numel()]
        adam = torch.optim.Adam(logits, lr=self.method.learning_rate)
        source = generator(self.method.seed, self.block.name)
        for _ in range(self.method.epochs):
            for index in torch.randperm(len(self.calls), generator=source).tolist():
                loss = self.loss(self.calls[index], outputs[index])
                for parameter, gradient in zip(logits, torch.autograd.grad(loss, logits, allow_unused=True)):
                    parameter.grad = gradient
                adam.step()

    def loss(self, call: Mapping[str, Any], wanted: Tensor) -> Tensor:
        """Relative squared error of the block's output, and the penalty."""
        pruned = {self.names[id(t.weight)]: t.weight.detach() * self._mask(t) for t in self.block.targets}
        output: Tensor = functional_call(self.caller, pruned, kwargs=dict(call))
        mask = call.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == output.shape[:2]:
            output, wanted = output[mask.bool()], wanted[mask.bool()]
        error = (output - wanted).square().sum() / wanted.square().sum().clamp(min=torch.finfo(wanted.dtype).tiny)
        sizes = [rates.rank.numel() for rates in self.rates.values()]
        gone = torch.stack([rates.expected().mean() * size for rates, size in zip(self.rates.values(), sizes) if size])
        penalty: Tensor = (gone.sum() / sum(sizes) - self.sparsity).square()
        return error + self.method.balance * penalty

    def _mask(self, target: Target) -> Tensor:
        """The mask of a layer's weights, with gradients; what no unit covers stays."""
        always = torch.ones(1, device=target.weight.device)
        keep = torch.cat([always, self.rates[target.name].keep().flatten()])
        return keep[self.places[target.name]].to(target.weight.dtype)

    def _settle(self, gone: int) -> dict[str, Tensor]:
        """Move all rows by one common amount, round them so that ``gone`` units go, and choose."""
        rows = {f"{name} {i}": (name, i) for name, rates in self.rates.items() for i in range(len(rates.rank))}
        found = {name: rates.expected().tolist() for name, rates in self.rates.items()}
        sizes = {key: self.rates[name].rank.shape[1] for key, (name, _) in rows.items()}
        start = {key: 1.0 - found[name][i] for key, (name, i) in rows.items()}
        densities = fit(start, dict.fromkeys(rows, 1.0), sizes, sum(sizes.values()) - gone)
        counts = dict(zip(rows, shared_out([(1.0 - densities[key]) * sizes[key] for key in rows], gone)))
        keeps = {}
        for target in self.block.targets:
            rates = self.rates[target.name]
            own = torch.tensor([counts[f"{target.name} {i}"] for i in range(len(rates.rank))], dtype=torch.float64)
            margin = rates.rank - own.to(rates.rank.device)[:, None]  # negative for what goes
            places = self.places[target.name]
            members = places.flatten().bincount(minlength=margin.numel() + 1).clamp(min=1)
            scores = torch.cat([margin.new_zeros(1), margin.flatten()]) / members
            keeps[target.name] = self.pattern.choose(scores[places], int(own.sum()))
        return keeps


def _units(pattern: Pattern, target: Target) -> int:
    return math.prod(pattern.grid(tuple(target.weight.shape)))


def _places(pattern: Pattern, target: Target) -> Tensor:
    """Which unit each weight belongs to, counted from 1; 0 where none covers it.

    A unit's score is the sum of its members': the derivative of pooling tells who they are.
    """
    with torch.enable_grad():
        probe = torch.zeros(target.weight.shape, dtype=torch.float64, device=target.weight.device, requires_grad=True)
        units = pattern.pool(probe)
        numbers = torch.arange(1, units.numel() + 1, dtype=torch.float64, device=probe.device).reshape(units.shape)
        (places,) = torch.autograd.grad(units, probe, numbers, allow_unused=True)
    return torch.zeros_like(probe).long() if places is None else places.round().long()


def _logits_for(grid: Tensor, mean: float) -> Tensor:
    """Logits of a bell on ``grid`` whose mean is ``mean``, found by halving."""
    low, high = -1.0, 2.0
    for _ in range(50):
        centre = (low + high) / 2
        logits = -(grid.double() - centre).square() / (2 * SPREAD**2)
        low, high = (centre, high) if float(logits.softmax(0) @ grid.double()) < mean else (low, centre)
    return logits.float()
