"""Every training method on two processes: the same masks on every rank, and the weights of one process alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsekit.training import TRAINING_METHODS
from tests.contracts import two_ranks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks has come to: one launch for all methods."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*launch, two_ranks.__name__, str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def expect_equal(first, second):
    for part in ("weights", "masks"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part}: {name}"
    assert first["rows"] == second["rows"]


@pytest.mark.parametrize("way", [two_ranks.replicated, two_ranks.sharded], ids=["DDP", "fully_shard"])
@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_two_processes_are_one(ranks, kind, way):
    first, second = (rank[kind.__name__][way.__name__] for rank in ranks)
    for rank in (first, second):
        assert "error" not in rank, rank["error"]
    expect_equal(first, second)
    whole = two_ranks.alone(kind)
    assert first["stopped"] == whole["stopped"] is None
    for name, keep in whole["masks"].items():
        assert torch.equal(first["masks"][name], keep)
        assert not first["weights"][name][~keep].any()
    for name, value in whole["weights"].items():
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", TRAINING_METHODS)
def test_sharded_runs_resume(ranks, kind):
    for rank in ranks:
        whole = rank[kind.__name__][two_ranks.sharded.__name__]
        assert "error" not in whole, whole["error"]
        expect_equal(whole["resumed"], whole)
