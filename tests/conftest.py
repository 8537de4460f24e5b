"""Every test runs with uninitialised memory poisoned, on one thread, and away from the user's measurements."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if torch.cuda.is_available():
    # What cuBLAS needs to be deterministic, as poisoned memory asks of everything.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    # Before anything imports Triton: its own functions are interpreted only if it is told so by then.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _poison() -> Iterator[None]:
    """Fill ``torch.empty`` and its relatives with NaN or the largest integer, wherever they are called from."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="session")
def _no_measurements_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests measure in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Keep small work on one thread: waking others costs more than it. Tests about threads set their own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
