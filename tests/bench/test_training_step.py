"""The benchmark of a training step measures nothing that is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import sparsekit.bench.training
import sparsekit.kernels
from sparsekit.bench import LinearProblem, run_training
from sparsekit.errors import KernelError
from sparsekit.formats import BlockCSR
from sparsekit.patterns import Block

PROBLEM = LinearProblem(5, 40, 24, Block(8, 8), {0.5: None, 0.9: 4.0}, (1,))


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(sparsekit.bench.training, "BUDGET_S", 0.0)


def test_a_row_for_each_sparsity():
    threads, told = torch.get_num_threads(), []
    rows = list(run_training([PROBLEM], told.append))
    assert [(row.sparsity, row.floor, row.threads) for row in rows] == [(0.5, None, 1), (0.9, 4.0, 1)]
    assert all(row.seconds > 0 and row.dense_seconds == rows[0].dense_seconds for row in rows)
    assert rows[0].case == "training step, Block(8, 8) M=5 K=40 N=24"
    assert told == ["training, Block(8, 8) M=5 K=40 N=24, 1 thread"]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("wrong", ["of_x", "of_part"])
def test_a_wrong_gradient_stops_it(wrong, monkeypatch):
    reference = next(k for k in sparsekit.kernels.REFERENCE_GRADIENT_KERNELS if k.format is BlockCSR)

    def bind(packed, places):
        right = reference.bind(packed, places)
        changed = {wrong: lambda *operands: getattr(right, wrong)(*operands) * 1.001}
        return dataclasses.replace(right, **changed)

    kernel = dataclasses.replace(reference, bind=bind)
    monkeypatch.setattr(sparsekit.kernels, "GRADIENT_KERNELS", (kernel,))
    what = {"of_x": "input", "of_part": "weight"}[wrong]
    with pytest.raises(KernelError, match=f"training step, gradient of the {what}: expected errors of at most 64"):
        list(run_training([PROBLEM]))
