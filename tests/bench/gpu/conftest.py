"""A session on the CPU, where Triton's interpreter runs what a GPU would."""

import time

import pytest
import torch

from sparsekit.bench.gpu import checks, tuning
from sparsekit.bench.gpu.log import Log
from sparsekit.bench.gpu.session import Session
from sparsekit.kernels.triton import tile
from sparsekit.patterns import Block
from tests.kernels.triton.conftest import _interpreter, device  # noqa: F401 - fixtures

CPU = torch.device("cpu")


@pytest.fixture
def session(tmp_path):
    """A session that tunes and spends no time on timing."""
    return Session(CPU, Log(tmp_path / "log.jsonl"), time.time() + 1000.0, 0.0)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few and small checks, and tuned tables in a folder of their own."""
    if torch.cuda.is_available():
        pytest.skip("it is rehearsed on the CPU, where there is no GPU")
    monkeypatch.setattr(checks, "SHAPES", ((48, 70),))
    monkeypatch.setattr(checks, "BATCHES", (1, 33))
    monkeypatch.setattr(checks, "DTYPES", (torch.float32, torch.bfloat16))
    monkeypatch.setattr(checks, "PATTERNS", (*checks.PATTERNS[1:2], checks.PATTERNS[3], (Block(16, 16), 0.7)))
    monkeypatch.setattr(checks, "CONVOLUTIONS", checks.CONVOLUTIONS[2:])
    monkeypatch.setattr(tuning, "MOST_TILES", 4)
    monkeypatch.setattr(tile, "FOLDER", tmp_path / "tuned")
    tile._read.cache_clear()
    yield
    tile._read.cache_clear()
