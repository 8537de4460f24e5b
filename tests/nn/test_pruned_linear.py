"""A Linear that was pruned with any pattern goes through packing, planning and saving unchanged."""

import copy

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.formats import FORMATS
from tests.numerics import assert_product

PATTERNS = [
    (sk.VNM(8, 2, 8), None),
    (sk.VNM(16, 1, 10), None),
    (sk.TransposableNM(2, 4), None),
    (sk.TransposableNM(3, 8, "greedy"), None),
    (sk.Filter(), 0.5),
    (sk.Channel(), 0.8),
    (sk.Head(8), 0.5),
    (sk.Head(8, axis=1), 0.5),
]


def pruned(pattern, sparsity, rows=36, columns=44):
    """A model of one Linear, whose sides leave a remainder with most patterns, and its masks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, rows), nn.ReLU(), nn.Linear(rows, 8)).eval()
    return model, sk.prune(model, sk.Magnitude(), pattern, sparsity, layers=["0"])


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS, ids=str)
class TestEveryPatternOfALinear:
    @pytest.mark.parametrize("batch", [1, 5])
    @pytest.mark.parametrize("given", [True, False], ids=["its mask", "its zeros"])
    def test_sparse_linear(self, pattern, sparsity, batch, given):
        model, masks = pruned(pattern, sparsity)
        layer = sk.nn.SparseLinear.from_dense(model[0], mask=masks["0.weight"] if given else None)
        x = torch.randn(batch, 44)
        with torch.no_grad():
            assert_product(layer(x), x, model[0].weight, model[0].bias)

    def test_every_format_that_accepts_the_mask(self, pattern, sparsity):
        model, masks = pruned(pattern, sparsity)
        accepting = [family for family in FORMATS if family.accepts(masks["0.weight"]) is None]
        assert len(accepting) >= 3  # dense, CSR and bitmask take any mask
        for family in accepting:
            weight = model[0].weight.detach()
            assert torch.equal(family.pack(weight, masks["0.weight"]).unpack(), weight)

    def test_plan_and_save(self, pattern, sparsity, tmp_path, monkeypatch):
        monkeypatch.setenv("SPARSEKIT_CACHE", "off")
        model, masks = pruned(pattern, sparsity)
        x = torch.randn(3, 44)
        plan = sk.plan(model, x, masks)
        assert str(pattern) in str(plan)
        with torch.no_grad():
            torch.testing.assert_close(plan.apply()(x), model(x))
        fast = copy.deepcopy(model)
        fast[0] = sk.nn.SparseLinear.from_dense(model[0], mask=masks["0.weight"])
        sk.save(fast, tmp_path / "fast.safetensors")
        again = sk.load(tmp_path / "fast.safetensors", into=model)
        with torch.no_grad():
            torch.testing.assert_close(again(x), model(x))
            assert torch.equal(again(x), fast(x))
