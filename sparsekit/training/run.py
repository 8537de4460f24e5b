"""What the user holds while a model is pruned in training."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from sparsekit.errors import PruningError, SparsekitWarning
from sparsekit.mask import Mask
from sparsekit.training.base import TrainingMethod
from sparsekit.training.history import History
from sparsekit.training.restoring import restore, snapshot
from sparsekit.training.sharding import all_finite
from sparsekit.training.state import State

ROWS = 100
"""Rows that a run's history has, about."""

ATTACHED: Any = WeakIdKeyDictionary()  # type: ignore[no-untyped-call]
"""A weak reference to the run that prunes a parameter now; one that nobody holds any more is in nobody's way."""


class Run:
    """Prunes a model while the user's own loop trains it; made by :func:`~sparsekit.training.attach`.

    Everything happens inside ``optimizer.step()``: the model gets no new parameters, and no hooks but those by which
    ``Distillation`` and ``ChauvinPenalty`` watch it, which go when the run ends. Between two steps it
    holds the weights that it would be used with, so that gradients, validation and checkpoints see the pruned model.

    Attributes:
        method: as given.
        history: sparsity per layer over the steps, and what the method adds.
        stopped: why the run has stopped pruning, or None.
    """

    def __init__(self, method: TrainingMethod, state: State) -> None:
        self.method = method
        self.history = History(repr(method))
        self.stopped: str | None = None
        self._state = state
        self._hardened = self._finished = self._skipping = False
        self._penalised = True
        self._first = [(value, value.clone()) for site in state.sites for value in site.remembered(state.optimizer)]
        method.check(state)
        with torch.no_grad():
            method.prepare(state)
        for site in state.sites:
            ATTACHED[site.weight] = weakref.ref(self)
        self._handles = [
            state.optimizer.register_step_pre_hook(self._before),
            state.optimizer.register_step_post_hook(self._after),
        ]
        self._record()

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self._state.step

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the masks of all layers together, as they are now."""
        self._follow()
        sizes = [site.keep.numel() for site in self._state.sites]
        zeros = sum(size - int(site.keep.sum()) for size, site in zip(sizes, self._state.sites))
        return zeros / max(1, sum(sizes))

    @property
    def masks(self) -> dict[str, Mask]:
        """The masks as they are now, by parameter name."""
        self._follow()
        return {site.name: site.mask for site in self._state.sites}

    def penalty(self) -> Tensor:
        """Return what to add to the loss: a scalar, 0 for methods without a penalty."""
        self._penalised = True
        found = None if self._hardened or self.stopped else self.method.penalty(self._state)
        return torch.zeros((), device=self._state.sites[0].keep.device) if found is None else found

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Show the weights that the model would have if the run ended now, without noise; then put back the others.

        Only methods with gates show the model other weights while it trains.
        """
        if self._hardened or self.stopped:
            yield
            return
        with self.method.evaluating(self._state):
            yield

    def finish(self) -> dict[str, Mask]:
        """Make the masks final, let go of model and optimizer, and return the masks by parameter name."""
        if not self._finished:
            self._harden()
            for handle in self._handles:
                handle.remove()
            for site in self._state.sites:
                ATTACHED.pop(site.weight, None)
            self._record()
            self._finished = True
        return self.masks

    def state_dict(self) -> dict[str, Any]:
        """Return all that the run remembers, for ``torch.save``: tensors, numbers, strings, lists and dicts."""
        state = snapshot(self._state, repr(self.method))
        return {**state, "hardened": self._hardened, "stopped": self.stopped, "history": list(self.history.rows)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called; the pruned weights come back too, the optimizer's state does not.

        Raises:
            PruningError: ``saved`` is of another method, pattern, budget or model.
        """
        if self._finished:
            raise PruningError("load_state_dict: expected a run that goes on, got one that is finished")
        restore(self._state, saved, repr(self.method))
        for value, first in self._first:  # of an optimizer that was loaded first: the first masks have cleared some
            value.copy_(first)
        self._first = []
        self._hardened, self.stopped = bool(saved["hardened"]), saved["stopped"]
        self.history.rows[:] = [dict(row) for row in saved["history"]]
        if self._hardened or self.stopped:
            self.method.close(self._state)

    def __repr__(self) -> str:
        done = f"step {self.step} of {self._state.steps}"
        return f"Run({self.method}, {len(self._state.sites)} layers, {done}, sparsity={self.sparsity:.4f})"

    def _before(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Act when the gradients are there: now, or inside the closure that computes them."""
        self._first = []
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first is the optimizer
        self._skipping = found_infinity(optimizer)
        if self._skipping:
            return None
        if closure is None:
            unscale(optimizer)
            self._act_on_gradients()
            return None
        wrapped = self._wrap(closure)
        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _wrap(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def computed() -> Any:
            loss = closure()
            self._act_on_gradients()
            return loss

        return computed

    @torch.no_grad()
    def _act_on_gradients(self) -> None:
        if not (self._hardened or self.stopped):
            if not finite(self._state):
                self._stop(f"step {self.step}: expected finite gradients, got NaN or infinite ones")
            else:
                if self.method.has_penalty and not self._penalised:
                    self._ask_for_penalty()
                self.method.before_step(self._state)
        for site in self._state.sites:
            site.enforce_gradient()

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._skipping:
            return
        state = self._state
        for site in state.sites:
            site.enforce()
        if not (self._hardened or self.stopped):
            self.method.after_step(state)
        state.step += 1
        self._penalised = False
        if state.step == state.steps:
            self._harden()
        if state.step <= state.steps and (state.step % max(1, state.steps // ROWS) == 0 or state.step == state.steps):
            self._record()

    @torch.no_grad()
    def _harden(self) -> None:
        if self._hardened:
            return
        if self.stopped:
            self._state.hold({site.name: site.keep for site in self._state.sites})
        else:
            self.method.harden(self._state)
        self.method.close(self._state)
        self._hardened = True

    def _stop(self, reason: str) -> None:
        self.method.abandon(self._state)
        self.method.close(self._state)
        self.stopped = reason
        warnings.warn(f"{self.method} stops pruning and keeps its last masks: {reason}", SparsekitWarning, stacklevel=2)

    def _ask_for_penalty(self) -> None:
        self._penalised = True
        if not self._state.numbers.get("asked_for_penalty"):
            self._state.numbers["asked_for_penalty"] = True
            text = f"{self.method} works through its penalty: expected loss + run.penalty(), which was not called"
            warnings.warn(text, SparsekitWarning, stacklevel=2)

    @torch.no_grad()
    def _follow(self) -> None:
        if not (self._hardened or self.stopped):
            self.method.follow(self._state)

    def _record(self) -> None:
        self._follow()
        sparsities = {site.name: site.sparsity if site.held else site.zeros() for site in self._state.sites}
        self.history.add(self.step, {"sparsity": sparsities, **self._state.notes})


def finite(state: State) -> bool:
    """Whether the gradients of all sites are."""
    return all_finite([site.weight.grad for site in state.sites if site.weight.grad is not None])


def found_infinity(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler has told ``optimizer`` to skip the step."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.item())


def unscale(optimizer: Optimizer) -> None:
    """Divide gradients by the scale that a gradient scaler has left for ``optimizer`` to divide by."""
    scale = getattr(optimizer, "grad_scale", None)
    if not isinstance(scale, Tensor):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale.to(parameter.grad.device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]
