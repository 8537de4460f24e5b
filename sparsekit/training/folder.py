"""What rounds of training leave in a folder, so that they can go on after an interruption."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsekit.errors import CheckpointError

VERSION = 1

Content = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """Files of one call, each of them whole or not there; they belong to what ``identity`` says.

    Args:
        path: the folder; made where it is missing.
        identity: strings, numbers and lists that another call has to have in common to go on.
    """

    path: Path
    identity: Content

    def write(self, name: str, content: Content) -> None:
        """Write ``content``, of types that ``torch.load`` reads with ``weights_only=True``, in one step.

        Of several ranks, the first one writes.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        target = self.path / name
        unfinished = target.with_name(f".{name}.{os.getpid()}.unfinished")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            torch.save({"version": VERSION, "identity": self.identity, **content}, unfinished)
            os.replace(unfinished, target)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{target}: cannot be written: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def read(self, name: str) -> Content | None:
        """Return what was written under ``name``; None where there is nothing.

        Raises:
            CheckpointError: the file cannot be read, or is of another method, pattern, budget or model.
        """
        source = self.path / name
        if not source.exists():
            return None
        try:
            found = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{source}: expected a checkpoint of iterate, got {error}") from error
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise CheckpointError(f"{source}: expected a checkpoint of iterate, version {VERSION}, got something else")
        for word, here in self.identity.items():
            there = found["identity"].get(word)
            if there != here:
                raise CheckpointError(f"{source}: expected {word} {_short(here, there)}, got {_short(there, here)}")
        return dict(found)


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's global generators: of the CPU, and of each CUDA device where one is in use."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states |= {f"cuda:{index}": torch.cuda.get_rng_state(index) for index in range(torch.cuda.device_count())}
    return states


def restore_random_state(states: dict[str, Tensor]) -> None:
    """Set the generators to what :func:`random_state` returned, as far as their devices are there."""
    torch.set_rng_state(states["cpu"])
    for device, state in states.items():
        if device != "cpu" and torch.cuda.is_available() and int(device[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, device)


def _short(value: object, other: object) -> object:
    """What a list has that the other has not, in place of the whole list."""
    if isinstance(value, list) and isinstance(other, list):
        return [item for item in value if item not in other] or "what is there beside"
    return value
