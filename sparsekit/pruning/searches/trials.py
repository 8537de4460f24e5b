"""Put weights into a model, ask how well it does, and put everything back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsekit.batches import describe, evaluating
from sparsekit.errors import CalibrationError
from sparsekit.pruning.losses import SampledOutput
from sparsekit.pruning.searches.base import ModelProblem
from sparsekit.pruning.statistics.backward import finite_loss

Evaluate = Callable[[nn.Module], float]
Judge = Callable[[Mapping[str, Tensor]], float]


def blind(problem: ModelProblem, evaluate: Evaluate | None) -> str | None:
    """Say in half a sentence why nothing tells good masks from bad ones; None where something does."""
    if evaluate is None and isinstance(problem.loss_fn, SampledOutput):
        return "tries masks and compares losses, and the value of SampledOutput says nothing"
    return None


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Seed torch's global generator of the CPU, and give it its state back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def judging(problem: ModelProblem, evaluate: Evaluate | None, seed: int) -> Iterator[Judge]:
    """Give a function from weights by parameter name to a figure of merit, higher is better.

    Each call finds the model in eval mode with these weights in it and a seeded global generator. After each call,
    parameters, gradients, buffers and modes are as they were, whatever happened, so that ``evaluate`` may also train.

    Args:
        problem: the model; its batches and loss function judge where ``evaluate`` is None: minus the mean loss.
        evaluate: the user's own figure of merit.
        seed: of the global generator during the call.

    Raises:
        CalibrationError: the loss function or ``evaluate`` fails, or gives something else than a finite number.
    """
    saved = [(tensor, tensor.detach().clone()) for tensor in (*problem.model.parameters(), *problem.model.buffers())]
    slopes = [(parameter, parameter.grad) for parameter in problem.model.parameters()]
    by_name = {target.name: target.weight for target in problem.targets}

    def judge(weights: Mapping[str, Tensor]) -> float:
        try:
            with torch.no_grad():
                for name, value in weights.items():
                    by_name[name].copy_(value)
            with evaluating(problem.model), chance(seed):
                return _merit(problem, evaluate)
        finally:
            with torch.no_grad():
                for tensor, value in saved:
                    tensor.copy_(value)
            for parameter, slope in slopes:
                parameter.grad = slope

    yield judge


def _merit(problem: ModelProblem, evaluate: Evaluate | None) -> float:
    """The figure of merit of the model as it is."""
    if evaluate is None:
        losses = [float(finite_loss(problem, index)) for index in range(len(problem.batches))]
        return -sum(losses) / len(losses)
    try:
        with torch.enable_grad():
            merit = float(evaluate(problem.model))
    except Exception as error:
        raise CalibrationError(
            f"evaluate: expected evaluate(model) -> float, and it raised {type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(merit):
        raise CalibrationError(f"evaluate: expected a finite number, got {merit}")
    return merit


def run_once(problem: ModelProblem) -> None:
    """Run the first batch in eval mode without gradients.

    Raises:
        CalibrationError: the model refuses it.
    """
    batch = problem.batches[0]
    try:
        with evaluating(problem.model), chance(0):
            problem.run(batch)
    except Exception as error:
        raise CalibrationError(
            f"batches[0]: expected what the model takes, got {describe(batch)}, and it raised "
            f"{type(error).__name__}: {error}"
        ) from error
