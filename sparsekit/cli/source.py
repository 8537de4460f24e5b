"""The model that a command works on, and what it is called with."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparsekit.demo.minilm.corpus import load_corpus
from sparsekit.demo.minilm.encoder import Encoder, load_encoder, load_minilm
from sparsekit.errors import CheckpointError, InputError

EXAMPLE_TEXTS, EXAMPLE_TOKENS = 8, 128
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Source:
    """A model with example inputs, and for text models the encoder that turns text into more of them."""

    model: nn.Module
    example: Any
    encoder: Encoder | None = None

    def batches(self, texts: int) -> list[Any]:
        """Return calibration batches: ``texts`` texts of the standard library, or else the example inputs."""
        if self.encoder is None:
            return [self.example]
        return list(self.encoder.unpadded(load_corpus().calibration[:texts], BATCH_TOKENS, EXAMPLE_TOKENS))


def load_source(name: str, weights: Path | None = None) -> Source:
    """Load what ``name`` means: ``minilm``, a folder, or ``package.module:function``.

    Args:
        name: see above; the function returns ``(model, example_inputs)``.
        weights: a safetensors file to load into the model, as ``sparsekit prune --output`` writes it.

    Raises:
        InputError: it means nothing, or not what was expected.
        CheckpointError: the weights do not belong to the model.
    """
    if name == "minilm":
        source = _text_source(load_minilm())
    elif Path(name).is_dir():
        source = _text_source(load_encoder(name))
    elif ":" in name:
        source = _from_function(name)
    else:
        raise InputError(f"model: expected minilm, a folder, or package.module:function, got {name!r}")
    if weights is not None:
        _load_weights(source.model, weights)
    return source


def _text_source(encoder: Encoder) -> Source:
    text = " ".join(pair.text for pair in load_corpus().held_out)
    return Source(encoder.model, encoder.sheet(text, EXAMPLE_TEXTS, EXAMPLE_TOKENS), encoder)


def _from_function(name: str) -> Source:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model: expected a function that can be imported, got {name!r}: {error}") from None
    finally:
        sys.path.pop(0)
    made = function()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        raise InputError(f"{name}: expected it to return (model, example_inputs), got {type(made).__name__}")
    return Source(made[0].eval(), made[1])


def _load_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, str(path))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: expected weights of this model: {error}") from None
