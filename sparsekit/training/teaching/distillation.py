"""Recover while pruning: the model learns the answers of the one that it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from sparsekit.batches import expect_module
from sparsekit.errors import PruningError, SparsekitWarning
from sparsekit.patterns import Pattern
from sparsekit.pruning.allocations import Allocation
from sparsekit.pruning.criteria import Criterion
from sparsekit.training.base import TrainingMethod
from sparsekit.training.masking import GradualPruning
from sparsekit.training.rounds.weights import held
from sparsekit.training.site import Site
from sparsekit.training.state import State, check_positive
from sparsekit.training.teaching.classroom import Classroom, Hidden, Lesson, chosen_modules
from sparsekit.training.teaching.copying import frozen_copy
from sparsekit.training.teaching.lessons import Embed, embedding_loss, hidden_loss, logit_loss

SUBJECTS = ("logits", "embedding", "hidden")
ROOM = "classroom"
TEACHER = "teacher."
UNSEEN = "warned_of_no_batch"


class _Inside:
    """What the method inside says of itself; of the class, what the usual method inside does."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Distillation | None, owner: type) -> Any:
        return getattr(GradualPruning if instance is None else instance.method, self.name)


@dataclass(frozen=True)
class Distillation(TrainingMethod):
    """Prunes as another method does, and adds to the penalty how far the answers are from those of a teacher.

    ``run.penalty()`` then compares what the model has answered since the last call, in training mode, with what the
    teacher answers to the same inputs, in eval mode and under the same autocast. This one method puts hooks on the
    model, for as long as the run prunes; a model that is to be compiled has to be attached before its first call.

    ``"logits"`` is ``T^2 KL(softmax(teacher / T) || softmax(student / T))``, the mean over answers; ``"embedding"`` is
    1 - cosine; ``"hidden"`` is the squared error over the teacher's variance, summed over layers. Answers are tensors,
    the first of a tuple, or outputs with ``logits``, ``last_hidden_state`` and ``hidden_states``. Where the model
    takes an ``attention_mask`` ``(texts, tokens)``, masked tokens do not count.

    Args:
        method: what prunes.
        teacher: any module that takes the same inputs; None = a copy of the model as it is when it is attached, which
            each rank has whole.
        of: what is compared; several of them are added up.
        temperature: T of the logits.
        weight: what the sum is multiplied by.
        embed: ``(output, inputs) -> tensor`` ``(items, size)`` for ``"embedding"``; ``inputs`` are the arguments of the
            call by name. None takes the answer itself, or the mean of the states of all tokens that are not masked.
        hidden: for ``"hidden"``, names of modules, or ``(name, module) -> bool``, whose outputs are compared; None =
            the ``hidden_states`` of the answer but the first, so call the model with ``output_hidden_states=True``.

    Raises:
        PruningError: an argument is none of these.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2, for the logits; Jiao,
    Yin, Shang, Jiang, Chen, Li, Wang, Liu 2020, "TinyBERT", equation 8, for hidden states (here over their variance).
    """

    method: TrainingMethod = field(default_factory=GradualPruning)
    teacher: nn.Module | None = field(default=None, repr=False, compare=False)
    of: str | tuple[str, ...] = "logits"
    temperature: float = 2.0
    weight: float = 1.0
    embed: Embed | None = field(default=None, repr=False, compare=False)
    hidden: Hidden = field(default=None, repr=False, compare=False)
    has_penalty: ClassVar[bool] = True
    default_pattern: ClassVar[Pattern] = _Inside()  # type: ignore[assignment]
    default_allocation: ClassVar[Allocation] = _Inside()  # type: ignore[assignment]
    learns_sparsity: ClassVar[bool] = _Inside()  # type: ignore[assignment]
    redistributes: ClassVar[bool] = _Inside()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature, weight=self.weight)
        if not isinstance(self.method, TrainingMethod):
            raise PruningError(f"method: expected a TrainingMethod such as GradualPruning(), got {self.method!r}")
        if isinstance(self.method, Distillation):
            raise PruningError("method: expected a method that prunes, got another Distillation; name both in `of`")
        if not self.subjects or not set(self.subjects) <= set(SUBJECTS):
            raise PruningError(f"of: expected {', '.join(map(repr, SUBJECTS))} or several of them, got {self.of!r}")
        if self.teacher is not None:
            expect_module(self.teacher, "teacher")

    @property
    def subjects(self) -> tuple[str, ...]:
        """What is compared."""
        return (self.of,) if isinstance(self.of, str) else tuple(self.of)

    def criteria(self) -> list[Criterion]:
        """Return those of the method inside."""
        return self.method.criteria()

    def refuses(self, pattern: Pattern, shape: tuple[int, ...]) -> str | None:
        """Say what the method inside says."""
        return self.method.refuses(pattern, shape)

    def check(self, state: State) -> None:
        """Raise :class:`PruningError` where a module to be compared is not there, or as the method inside does."""
        self.method.check(state)
        if "hidden" in self.subjects:
            chosen_modules(self.hidden, state.model, self.teacher or state.model)

    def prepare(self, state: State) -> None:
        """Copy the teacher, start the method inside, and put hooks on the model."""
        teacher = self.teacher
        if teacher is None:
            teacher = frozen_copy(state.model)
            state.tensors.update({TEACHER + name: value.detach() for name, value in held(teacher)})
        self.method.prepare(state)
        hidden = chosen_modules(self.hidden, state.model, teacher) if "hidden" in self.subjects else []
        state.guests[ROOM] = Classroom(state.model, teacher, hidden)

    def penalty(self, state: State) -> Tensor | None:
        """Return the loss of the batches that the model has just seen, and the penalty of the method inside."""
        own = self.method.penalty(state)
        lessons = self._room(state).take()
        if not lessons:
            return own
        loss = sum((self.loss(lesson) for lesson in lessons[1:]), self.loss(lessons[0])) * (self.weight / len(lessons))
        return loss if own is None else loss + own

    def loss(self, lesson: Lesson) -> Tensor:
        """Return how far the answer to one batch is from the teacher's, a scalar."""
        losses: dict[str, Callable[[], Tensor]] = {
            "logits": lambda: logit_loss(lesson, self.temperature),
            "embedding": lambda: embedding_loss(lesson, self.embed),
            "hidden": lambda: hidden_loss(lesson),
        }
        first, *others = [losses[subject]() for subject in self.subjects]
        return sum(others, first)

    def before_step(self, state: State) -> None:
        """Warn, once, where a step has gone by without a batch; then what the method inside does."""
        if self._room(state).end_step() == 0 and not state.numbers.get(UNSEEN):
            state.numbers[UNSEEN] = True
            text = (
                f"{self} has seen no batch: expected the model in training mode, and one that is compiled to be "
                f"attached before its first call"
            )
            warnings.warn(text, SparsekitWarning, stacklevel=2)
        self.method.before_step(state)

    def after_step(self, state: State) -> None:
        """Do what the method inside does."""
        self.method.after_step(state)

    def follow(self, state: State) -> None:
        """Do what the method inside does."""
        self.method.follow(state)

    def harden(self, state: State) -> None:
        """Do what the method inside does."""
        self.method.harden(state)

    def final(self, state: State) -> dict[str, Tensor]:
        """Return what the method inside does."""
        return self.method.final(state)

    def scores(self, state: State) -> dict[str, Tensor]:
        """Return what the method inside does."""
        return self.method.scores(state)

    def decide(self, state: State, site: Site) -> Tensor:
        """Return what the method inside does."""
        return self.method.decide(state, site)

    def evaluating(self, state: State) -> AbstractContextManager[None]:
        """Do what the method inside does."""
        return self.method.evaluating(state)

    def abandon(self, state: State) -> None:
        """Do what the method inside does."""
        self.method.abandon(state)

    def close(self, state: State) -> None:
        """Take the hooks off the model, and forget the teacher."""
        self.method.close(state)
        if room := state.guests.pop(ROOM, None):
            room.close()
        for name in [name for name in state.tensors if name.startswith(TEACHER)]:
            del state.tensors[name]

    def _room(self, state: State) -> Classroom:
        found: Classroom = state.guests[ROOM]
        return found
