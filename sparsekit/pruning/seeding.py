"""Random numbers that depend on a seed and a name alone."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, name: str) -> torch.Generator:
    """Return a generator for what is called ``name``.

    It is the same on every rank and machine, and independent of the global generator, the device and the order in
    which layers come.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
