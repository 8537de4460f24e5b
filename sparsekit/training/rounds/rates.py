"""Learning rates that were seen once, and are used again; and what an optimizer remembers, forgotten."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsekit.training.state import State

RATES = "learning_rates"
OWN = "own_learning_rates"


def record(state: State) -> None:
    """Remember the learning rate of each parameter group for the step under way."""
    rates = state.numbers.setdefault(RATES, [])
    del rates[state.step :]
    rates.append(_current(state))


def replay(state: State, step: int) -> None:
    """Use the learning rates of ``step`` until :func:`put_back`; groups that were not there keep their own."""
    rates = state.numbers.get(RATES, [])
    if step >= len(rates):
        return
    state.numbers.setdefault(OWN, _current(state))
    for group, rate in zip(state.optimizer.param_groups, rates[step]):
        _set(group, rate)
    state.note("learning_rate", rates[step][0])


def put_back(state: State) -> None:
    """Give each group the learning rate that the user's schedule has set, which then never sees another."""
    for group, rate in zip(state.optimizer.param_groups, state.numbers.pop(OWN, [])):
        _set(group, rate)


def forget(state: State) -> None:
    """Clear what the optimizer remembers of the model's parameters: momentum, second moments, step counts."""
    for parameter in state.model.parameters():
        state.optimizer.state.pop(parameter, None)


def _current(state: State) -> list[float]:
    return [float(group["lr"]) for group in state.optimizer.param_groups]


def _set(group: dict[str, Any], rate: float) -> None:
    """Set the rate; a tensor, as compiled optimizers have it, stays the same tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
