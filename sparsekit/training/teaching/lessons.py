"""How far a student's answer is from its teacher's: by its logits, its embedding, or its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.training.teaching.classroom import Lesson, first_tensor

Embed = Callable[[Any, Mapping[str, Any]], Tensor]


def logit_loss(lesson: Lesson, temperature: float) -> Tensor:
    """Return ``T^2 KL(teacher || student)`` of the softened answers, the mean over items and unmasked tokens.

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    mine, right = _pair("logits", _answer(lesson.student, "logits"), _answer(lesson.teacher, "logits"))
    mine, right = unmasked(mine, lesson), unmasked(right, lesson)
    size = right.shape[-1]
    learned = F.log_softmax(mine.reshape(-1, size) / temperature, dim=-1)
    wanted = F.log_softmax(right.reshape(-1, size) / temperature, dim=-1)
    return F.kl_div(learned, wanted, reduction="batchmean", log_target=True) * temperature**2


def embedding_loss(lesson: Lesson, embed: Embed | None) -> Tensor:
    """Return 1 - cosine of the two embeddings, the mean over items."""
    made = embed or pooled
    mine, right = _pair("embedding", made(lesson.student, lesson.inputs), made(lesson.teacher, lesson.inputs))
    return 1.0 - F.cosine_similarity(mine.flatten(1), right.flatten(1), dim=-1).mean()


def hidden_loss(lesson: Lesson) -> Tensor:
    """Return the squared error of each layer over the teacher's variance, summed over layers."""
    losses = []
    for name, (found, wanted) in _hidden(lesson).items():
        mine, right = _pair(f"hidden {name}", first_tensor(found), first_tensor(wanted))
        mine, right = unmasked(mine, lesson), unmasked(right, lesson)
        variance = right.var(correction=min(1, right.numel() - 1)).clamp(min=torch.finfo(right.dtype).eps)
        losses.append((mine - right).square().mean() / variance)
    return torch.stack(losses).sum()


def pooled(output: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Return the embedding of ``output``: the mean of unmasked token states, or the answer itself ``(items, ...)``."""
    states = _answer(output, "last_hidden_state")
    mask = inputs.get("attention_mask")
    if not hasattr(output, "last_hidden_state") or states.dim() != 3:
        return states
    weights = torch.ones_like(states[..., :1]) if mask is None else mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def unmasked(states: Tensor, lesson: Lesson) -> Tensor:
    """Return ``states`` ``(texts, tokens, ...)`` of the tokens that the attention mask keeps, where the two fit."""
    mask = lesson.inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or states.dim() < 3 or mask.shape != states.shape[:2]:
        return states
    return states[mask.to(states.device, torch.bool)]


def _hidden(lesson: Lesson) -> Mapping[str, tuple[Any, Any]]:
    """The watched layers, or those that the answers carry, without what the first one gets."""
    if lesson.hidden is not None:
        return lesson.hidden
    mine = getattr(lesson.student, "hidden_states", None)
    right = getattr(lesson.teacher, "hidden_states", None)
    if not mine or not right:
        raise PruningError(
            "hidden: expected outputs with hidden_states (call the model with output_hidden_states=True), or "
            "Distillation(hidden=...) with names of modules, got neither"
        )
    if len(mine) != len(right):
        raise PruningError(f"hidden: expected as many states as the teacher's {len(right)}, got {len(mine)}")
    return {str(layer): pair for layer, pair in enumerate(zip(mine, right)) if layer > 0}


def _answer(output: Any, name: str) -> Tensor:
    """The part of ``output`` called ``name``; the output itself, or the first of several, where nothing is."""
    found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    return first_tensor(output) if found is None else first_tensor(found)


def _pair(what: str, mine: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least float32; raise :class:`PruningError` where their shapes differ."""
    if mine.shape != right.shape:
        raise PruningError(
            f"distillation: expected {what} of the teacher's shape {tuple(right.shape)}, got {tuple(mine.shape)}"
        )
    dtype = torch.promote_types(mine.dtype, torch.float32)
    return mine.to(dtype), right.to(dtype)
