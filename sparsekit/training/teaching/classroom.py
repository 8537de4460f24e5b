"""Where a student is watched while it trains, and its teacher is asked the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.batches import evaluating
from sparsekit.errors import PruningError

Hidden = Iterable[str] | Callable[[str, nn.Module], bool] | None
Pairs = Sequence[tuple[str, nn.Module, nn.Module]]


@dataclass(frozen=True, eq=False)
class Lesson:
    """One batch: what went in, and what both have answered.

    Args:
        inputs: the arguments of the call, by name.
        student, teacher: what the two models returned.
        hidden: outputs of the student's and the teacher's modules by name, where some are watched.
    """

    inputs: Mapping[str, Any]
    student: Any
    teacher: Any
    hidden: Mapping[str, tuple[Any, Any]] | None = None


class Classroom:
    """Hooks on a student that ask the teacher the same, whenever the student runs in training mode with gradients.

    Args:
        student: the model that trains.
        teacher: put in eval mode while it is asked, and asked without gradients; it is never changed.
        hidden: modules whose outputs are watched too: their name, the student's, the teacher's.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, hidden: Pairs = ()) -> None:
        self.student = student
        self.teacher = teacher
        self.hidden = hidden
        self._lessons: list[Lesson] = []
        self._seen: dict[str, Any] = {}
        self._batches = 0
        self._stack = ExitStack()
        self._stack.callback(student.register_forward_pre_hook(self._begin).remove)
        # disabled here and not by a decorator, which would import the compiler with sparsekit
        end = torch.compiler.disable(self._end)  # type: ignore[no-untyped-call]
        self._stack.callback(student.register_forward_hook(end, with_kwargs=True).remove)
        for name, watched, _ in hidden:
            self._stack.callback(watched.register_forward_hook(partial(self._see, name)).remove)

    def take(self) -> list[Lesson]:
        """Return the lessons since the last call, and forget them."""
        taken, self._lessons = self._lessons, []
        return taken

    def end_step(self) -> int:
        """Forget lessons that nobody has taken, and return how many batches there were since the last step."""
        batches, self._batches = self._batches, 0
        self._lessons.clear()
        self._seen.clear()
        return batches

    def close(self) -> None:
        """Take the hooks off."""
        self._stack.close()
        self.end_step()

    def __deepcopy__(self, memo: dict[int, Any]) -> Classroom:
        """Return itself: a copy of the student keeps the hooks, which do not listen to it."""
        return self

    def listens_to(self, model: nn.Module) -> bool:
        """Whether ``model`` is the student, and learns now."""
        return model is self.student and model.training and torch.is_grad_enabled()

    def _begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if self.listens_to(model):
            self._seen.clear()

    def _see(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.student.training and torch.is_grad_enabled():
            self._seen[name] = output

    def _end(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self.listens_to(model):
            return
        wanted: dict[str, Any] = {}
        with evaluating(self.teacher), ExitStack() as stack:
            for name, _, watched in self.hidden:
                stack.callback(watched.register_forward_hook(_noting(wanted, name)).remove)
            answer = self.teacher(*args, **kwargs)
        missed = [name for name, _, _ in self.hidden if name not in self._seen or name not in wanted]
        if missed:
            raise PruningError(f"hidden: expected modules that run when the model does, got {missed[0]!r}")
        hidden = {name: (self._seen.pop(name), wanted[name]) for name, _, _ in self.hidden}
        inputs = arguments(model, args, kwargs)
        self._lessons.append(Lesson(inputs, output, answer, hidden if self.hidden else None))
        self._batches += 1


def _noting(found: dict[str, Any], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        found[name] = output

    return note


def arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``model`` was called with, by the names of its ``forward``."""
    names = inspect.signature(model.forward)
    bound = dict(names.bind(*args, **kwargs).arguments)
    for name, parameter in names.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(bound.pop(name, {}))
    return bound


def chosen_modules(choice: Hidden, student: nn.Module, teacher: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """Return the modules of ``choice`` with their names, each in both models.

    Raises:
        PruningError: a name is unknown, in one of them, or nothing is chosen.
    """
    if choice is None:
        return []
    own, others = dict(student.named_modules()), dict(teacher.named_modules())
    if callable(choice):
        names = [name for name, module in own.items() if choice(name, module)]
    else:
        names = [choice] if isinstance(choice, str) else list(choice)
    for name in names:
        for word, modules in (("model", own), ("teacher", others)):
            if name not in modules:
                raise PruningError(f"hidden: expected names of modules, got {name!r}, which the {word} has not")
    if not names:
        raise PruningError("hidden: expected a choice of at least one module, got none")
    return [(name, own[name], others[name]) for name in names]


def first_tensor(output: Any) -> Tensor:
    """Return the tensor that ``output`` is, or begins with.

    Raises:
        PruningError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)) and output:
        return first_tensor(output[0])
    raise PruningError(f"distillation: expected an output with a tensor, got {type(output).__name__}")
