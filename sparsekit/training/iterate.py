"""Prune between whole trainings by the user's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from sparsekit.batches import expect_module
from sparsekit.errors import PruningError
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern
from sparsekit.pruning.allocations import Allocation
from sparsekit.pruning.statistics import LossFunction
from sparsekit.pruning.targets import Choice
from sparsekit.training.attach import begin
from sparsekit.training.folder import Content, Folder, random_state, restore_random_state
from sparsekit.training.rounds.base import PRUNED, RoundMethod
from sparsekit.training.rounds.weights import held, load_model, read_model
from sparsekit.training.run import found_infinity
from sparsekit.training.state import State

START = "start.pt"
CHECKPOINT = "checkpoint"
STEPS = "steps"


@dataclass(eq=False)
class Round:
    """What ``train(model, round)`` is told about the round that it trains, and what it calls.

    Args:
        number: 0 for the dense model, then how many prunings there have been.
        rounds: how many prunings there will have been in the end.
        first_step: where the learning rate schedule begins: 0, or what later rounds rewind to.
        sparsity: fraction of zeros in the masks of all layers together.
    """

    number: int
    rounds: int
    first_step: int
    sparsity: float
    _state: State = field(repr=False)
    _method: RoundMethod = field(repr=False)
    _handles: list[Any] = field(default_factory=list, repr=False)

    def hold(self, optimizer: Optimizer) -> None:
        """Keep removed weights at exactly zero in every step of ``optimizer``, until the round is over."""
        if not isinstance(optimizer, Optimizer):
            raise PruningError(f"round.hold: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self._handles.append(optimizer.register_step_pre_hook(self._before))
        self._handles.append(optimizer.register_step_post_hook(self._after))

    def checkpoint(self, step: int) -> None:
        """Let later rounds begin here: with the weights as they are now, and at ``step``, in whatever unit.

        Only round 0 has such a point, in the others nothing happens; of several calls the last one counts.
        """
        if self.number == 0:
            self._state.numbers[CHECKPOINT] = int(step)
            self._method.remember(self._state)

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    @property
    def holds(self) -> bool:
        """Whether :meth:`hold` was called."""
        return bool(self._handles)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for site in self._state.sites:
            site.enforce_gradient()

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for site in self._state.sites:
            site.enforce()
        if self.number == 0 and not found_infinity(optimizer):
            self._state.numbers[STEPS] += 1


Train = Callable[[nn.Module, Round], object]


def iterate(  # noqa: PLR0913 - the one call of the package
    model: nn.Module,
    train: Train,
    method: RoundMethod,
    pattern: Pattern | None = None,
    sparsity: float | None = None,
    rounds: int | None = None,
    *,
    folder: str | Path | None = None,
    allocation: Allocation | None = None,
    layers: Choice = None,
    batches: Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    seed: int = 0,
) -> dict[str, Mask]:
    """Train, prune, rewind as ``method`` says, train again, and so on; return the masks by parameter name.

    The user's function trains one round; it is called once for the dense model and once after each pruning::

        def train(model, round):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            round.hold(optimizer)                     # removed weights stay zero
            for step in range(round.first_step, 1000):
                if step == 50:
                    round.checkpoint(step)            # what later rounds rewind to; without it, the first weights
                optimizer.param_groups[0]["lr"] = schedule(step)
                ...                                   # backward, optimizer.step()

        masks = sk.iterate(model, train, sk.LotteryTicket(), sparsity=0.9, rounds=5, folder="tickets")

    ``round.first_step`` is 0 in the first round. Later ones begin where ``round.checkpoint(step)`` was called in the
    first; without that call ``LotteryTicket`` begins at 0, ``LearningRateRewinding`` at its share of the optimizer
    steps of the first round. ``IterativePruning`` fine-tunes: always from 0, and ``round.number`` says which round.

    With a folder, each finished round is there as ``round_0.pt``, ``round_1.pt``, ...: ``model`` as it was trained, and
    its ``masks``. Called again with the same folder, it goes on after the last one, with torch's global random numbers
    as they were then. (Of several processes, the first one writes, and random numbers are left to the user.)

    Args:
        model: any module; wrappers are looked through. It ends as the last round has trained it.
        train: ``train(model, round)``, which calls ``round.hold(optimizer)``; see :class:`Round`.
        method: ``IterativePruning()``, ``LearningRateRewinding()`` or ``LotteryTicket()``.
        pattern, sparsity, allocation, layers, batches, loss_fn, seed: as in :func:`~sparsekit.training.attach`.
        rounds: prunings; None = as the method says.
        folder: where rounds are kept; None = nowhere.

    Raises:
        PruningError: the method, pattern and allocation do not go together, ``train`` did not hold the masks, or the
            method rewinds to a point in training that ``train`` did not mark.
        CheckpointError: the folder holds rounds of another method, pattern, budget or model, or cannot be read.
        PatternError, LayerError, CalibrationError: as in :func:`~sparsekit.training.attach`.
    """
    expect_module(model)
    if not isinstance(method, RoundMethod):
        raise PruningError(f"method: expected one that prunes in rounds, such as LotteryTicket(), got {method!r}")
    if not callable(train):
        raise PruningError(f"train: expected a function train(model, round), got {train!r}")
    chosen = method if rounds is None else replace(method, rounds=rounds)  # type: ignore[type-var]
    nobody = SGD([{"params": [weight for weight in model.parameters() if weight.requires_grad]}], lr=0.0)
    state = begin(
        model,
        nobody,
        chosen,
        pattern=pattern,
        sparsity=sparsity,
        steps=1,
        allocation=allocation,
        layers=layers,
        batches=batches,
        loss_fn=loss_fn,
        seed=seed,
    )
    iteration = _Iteration(chosen, state, chosen.count(state.sparsity, state.pattern))
    kept = None if folder is None else Folder(Path(folder), iteration.identity(seed))
    return iteration.run(model, train, kept)


@dataclass(eq=False)
class _Iteration:
    """The rounds of one call: ``count`` prunings, and one training more."""

    method: RoundMethod
    state: State
    count: int

    def __post_init__(self) -> None:
        self.state.steps = self.count + 1
        self.method.check(self.state)

    def identity(self, seed: int) -> Content:
        """What another call has to have in common to go on where this one stops."""
        state = self.state
        return {
            "method": repr(self.method),
            "pattern": str(state.pattern),
            "sparsity": state.sparsity,
            "allocation": repr(state.allocation),
            "layers": [site.name for site in state.sites],
            "model": [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in held(state.model)],
            "seed": seed,
        }

    def run(self, model: nn.Module, train: Train, folder: Folder | None) -> dict[str, Mask]:
        """Train all rounds that are not finished yet."""
        finished = self.resume(folder)
        for number in range(finished + 1, self.count + 1):
            if number > 0:
                self.prune()
            self.train(model, train, number)
            if folder:
                folder.write(f"round_{number}.pt", self.content(number))
        return {site.name: site.mask for site in self.state.sites}

    def resume(self, folder: Folder | None) -> int:
        """Bring model and masks to the end of the last finished round, and return its number; -1 for the start."""
        self.state.numbers.update({PRUNED: 0, STEPS: 0})
        start = folder.read(START) if folder else None
        if start:
            load_model(self.state.model, start["model"])
            _restore_random(start)
        elif folder:
            folder.write(START, {"model": read_model(self.state.model), "random": random_state()})
        self.method.remember(self.state)
        first = folder.read("round_0.pt") if folder else None
        if not first or not folder:
            return -1
        self.state.tensors = dict(first["tensors"])
        for number in range(self.count, -1, -1):
            if found := folder.read(f"round_{number}.pt"):
                self.restore(found)
                return number
        return -1

    def restore(self, found: Content) -> None:
        """Set the model, the masks and all random numbers to what they were after a round."""
        load_model(self.state.model, found["model"])
        self.state.numbers = dict(found["numbers"])
        self.state.generator.set_state(found["generator"])
        if self.state.numbers[PRUNED]:
            masks = {site.name: found["masks"][site.name].to(site.keep.device) for site in self.state.sites}
            self.state.hold(masks)
        _restore_random(found)

    @torch.no_grad()
    def prune(self) -> None:
        """Prune and rewind."""
        self.method.prune(self.state, self.count)

    def train(self, model: nn.Module, train: Train, number: int) -> None:
        """Let the user's function train a round, with the masks held."""
        numbers = self.state.numbers
        first_step = 0
        if number > 0 and self.method.replays:
            first_step = numbers.get(CHECKPOINT, self.method.rewound_step(numbers[STEPS]))
        if number == 0:
            numbers[STEPS] = 0
        sizes = [site.keep.numel() for site in self.state.sites]
        zeros = sum(size - int(site.keep.sum()) for size, site in zip(sizes, self.state.sites))
        told = Round(number, self.count, first_step, zeros / max(1, sum(sizes)), self.state, self.method)
        try:
            train(model, told)
        finally:
            told.close()
        if not told.holds:
            raise PruningError(f"train: expected a call of round.hold(optimizer), got none in round {number}")
        if number == 0 and self.method.rewinds_weights and self.method.rewind > 0 and CHECKPOINT not in numbers:
            raise PruningError(
                f"train: {self.method} rewinds to a point in training: expected a call of round.checkpoint(step) in "
                f"round 0, got none"
            )

    def content(self, number: int) -> Content:
        """What a finished round leaves: the model as it was trained, its masks, and what it takes to go on."""
        state = self.state
        return {
            "number": number,
            "model": read_model(state.model),
            "masks": {site.name: site.keep for site in state.sites},
            "numbers": dict(state.numbers),
            "generator": state.generator.get_state(),
            "random": random_state(),
            "tensors": state.tensors if number == 0 else {},
        }


def _restore_random(found: Content) -> None:
    """Set torch's global generators, unless several processes have one each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        restore_random_state(found["random"])
