"""Every test runs with uninitialised memory poisoned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _poison() -> Iterator[None]:
    """Fill ``torch.empty`` and its relatives with NaN or the largest integer, wherever they are called from."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
