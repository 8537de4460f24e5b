"""Layers and plans with weights in 8 bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.errors import FormatError, InputError
from sparsekit.formats import QUANTIZED_FORMATS
from sparsekit.nn import SparseLinear
from sparsekit.patterns import Block
from tests.nn.test_linear import dense_layer, sparse_layer
from tests.numerics import assert_integer_product, assert_product
from tests.weights import random_mask, random_weight

every_family = pytest.mark.parametrize("family", QUANTIZED_FORMATS, ids=lambda f: f.name)


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    torch.compiler.reset()


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_layers_multiply_exact_integers_and_add_a_residual(family, dtype):
    layer = sparse_layer(family, dtype=dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, residual = random_weight((3, 20), dtype), random_weight((3, 12), dtype, 1)
    with torch.no_grad():
        for run in (layer, compiled):
            assert_integer_product(run(x), layer.packed, x, layer.bias)
            y = run(x, residual)
            if dtype.itemsize > 2:  # without a kernel that adds it, a sum of 16 bits is rounded before
                assert_integer_product(y, layer.packed, x, layer.bias, residual)
    with pytest.raises(InputError, match=r"expected .* residual"):
        layer(x, residual.to(torch.int8))


@every_family
def test_gradients_reach_the_input_and_weights_are_not_trained(family):
    layer, x = sparse_layer(family), random_weight((3, 20)).requires_grad_()
    layer(x).sum().backward()
    assert_product(x.grad, torch.ones(3, 12), layer.weight.T)
    with pytest.raises(FormatError, match="rounded to 8 bits"):
        SparseLinear.from_dense(dense_layer(), random_mask((12, 20), Block(4, 4), 0.5), family, trainable=True)


def test_a_plan_rounds_only_where_asked():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(1024, 1024)).eval(), torch.randn(64, 1024)
    sk.prune(model, sk.Magnitude(), sparsity=0.8, pattern=Block(32, 32))
    exact = sk.plan(model, x).layers[0]
    assert exact.chosen is None or not exact.chosen.format.startswith("int8")
    fast = sk.plan(model, x, quantize="int8").apply()
    assert isinstance(fast[0], SparseLinear)
    with torch.no_grad():
        error = (fast(x) - model(x)).norm() / model(x).norm()
    assert error < 0.02
    with pytest.raises(InputError, match="quantize: expected 'int8' or None, got 'int4'"):
        sk.plan(model, x, quantize="int4")
