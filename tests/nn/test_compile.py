"""SparseLinear under torch.compile and torch.export."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import sparsekit.kernels
from sparsekit.formats import CSR, BlockCSR
from sparsekit.kernels.base import Kernel
from sparsekit.kernels.reference import REFERENCE_KERNELS
from tests.nn.test_linear import every_family, sparse_layer
from tests.numerics import assert_product
from tests.weights import random_weight, same_bits


def model_of(family):
    return nn.Sequential(sparse_layer(family, (16, 20)), nn.ReLU(), sparse_layer(family, (8, 16), bias=False)).eval()


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


@pytest.mark.parametrize("family", [CSR, BlockCSR], ids=lambda f: f.name)
def test_compiles_with_dynamic_shapes(family):
    model = model_of(family)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((5, 20), (9, 20), (2, 3, 20)):
        x = random_weight(shape)
        with torch.no_grad():
            assert torch.equal(compiled(x), model(x))


# inductor itself uses what torch.jit has deprecated
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiles_with_inductor_and_binds_once(monkeypatch):
    binds = []

    def bind(packed):
        binds.append(packed)
        return REFERENCE_KERNELS[1].bind(packed)

    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (Kernel("counting", CSR, lambda problem: None, bind),))
    layer = sparse_layer(CSR)  # nothing beside it: the C++ compiler has nothing to do
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for shape in ((5, 20), (9, 20), (2, 3, 20)):
        x = random_weight(shape)
        with torch.no_grad():
            assert torch.equal(compiled(x), layer(x))
    assert len(binds) == 1


def test_compiled_the_kernel_follows_the_batch_size(monkeypatch):
    called = []

    def kernel(name):
        def bind(packed):
            multiply = REFERENCE_KERNELS[1].bind(packed)
            return lambda x, bias: (called.append(name), multiply(x, bias))[1]

        return Kernel(name, CSR, lambda problem: None, bind)

    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (kernel("any"), kernel("few"), kernel("many")))
    layer = sparse_layer(CSR)
    layer.kernel_by_batch = {4: "few", 6: "many"}
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for shape in ((4, 20), (2, 3, 20), (6, 20), (5, 20), (2, 2, 20)):
            compiled(random_weight(shape))
    assert called == ["few", "many", "many", "any", "few"]


@every_family
def test_compiled_gradients(family):
    layer = sparse_layer(family)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = []
    for call in (layer, compiled):
        x = random_weight((5, 20)).requires_grad_()
        layer.bias.grad = None
        call(x).square().sum().backward()
        grads.append((x.grad, layer.bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads))


@every_family
@pytest.mark.parametrize("strict", [False, True])
def test_exports_saves_and_loads(family, strict):
    model = model_of(family)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (random_weight((3, 20)),), dynamic_shapes=({0: batch},), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for size in (3, 7):
        x = random_weight((size, 20))
        assert same_bits(again(x), model(x))


def test_compiles_under_autocast():
    layer = sparse_layer(CSR)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = random_weight((3, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert_product(compiled(x.bfloat16()), x.bfloat16().float(), layer.weight, layer.bias)


def test_tracers_see_the_operator():
    with torch.no_grad():
        graph = make_fx(sparse_layer(CSR), tracing_mode="real")(torch.zeros(3, 20))
    assert torch.ops.sparsekit.linear.default in {node.target for node in graph.graph.nodes}


def test_fake_tensors_see_the_shape():
    layer = sparse_layer(CSR)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        assert layer(torch.empty(2, 3, 20)).shape == (2, 3, 12)
