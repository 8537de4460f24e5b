"""SparseLinear against the dense product, and what it says to input that does not fit."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import sparsekit.kernels
import sparsekit.nn.choice
from sparsekit.errors import FormatError, InputError, LayerError, MaskError
from sparsekit.formats import CSR, FORMATS, QUANTIZED_FORMATS, Bitmask, BlockCSR, DeltaCSR, Dense, NMPacked
from sparsekit.kernels import gpu
from sparsekit.kernels.base import Kernel
from sparsekit.kernels.reference import REFERENCE_KERNELS
from sparsekit.kernels.timing import HostClock
from sparsekit.mask import Mask
from sparsekit.nn import SparseLinear
from sparsekit.nn.choice import by_rule
from sparsekit.patterns import NM, Block, Unstructured
from tests.numerics import assert_product
from tests.weights import FLOATING, PATTERNS, random_mask, random_weight, same_bits

every_format = pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)
every_family = pytest.mark.parametrize("family", [*FORMATS, *QUANTIZED_FORMATS], ids=lambda f: f.name)


def dense_layer(shape=(12, 20), bias=True, dtype=torch.float32):
    linear = nn.Linear(shape[1], shape[0], bias=bias, dtype=dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(linear.parameters()):
            parameter.copy_(random_weight(tuple(parameter.shape), dtype, seed))
    return linear


def sparse_layer(family, shape=(12, 20), bias=True, dtype=torch.float32):
    pattern = next(p for p in PATTERNS if family.accepts(random_mask((8, 16), p, 0.5)) is None)
    return SparseLinear.from_dense(dense_layer(shape, bias, dtype), random_mask(shape, pattern, 0.5), family)


@every_format
@pytest.mark.parametrize("lead", [(), (1,), (0,), (7,), (2, 3), (0, 3), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_any_leading_dimensions(family, lead, grad):
    for layer in (sparse_layer(family), sparse_layer(family, bias=False)):
        x = random_weight((*lead, 20), seed=5)
        for _ in range(2):
            with torch.set_grad_enabled(grad):
                y = layer(x)
            assert y.requires_grad == (grad and layer.bias is not None)
            assert_product(y.detach(), x, layer.weight, layer.bias)


@every_format
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_every_dtype(family, dtype):
    layer, x = sparse_layer(family, dtype=dtype), random_weight((3, 20), dtype)
    with torch.inference_mode():
        assert_product(layer(x), x, layer.weight, layer.bias)


@pytest.mark.parametrize(
    "x",
    [
        random_weight((20, 6)).T,
        random_weight((6, 40))[:, ::2],
        random_weight((4, 3, 20)).transpose(0, 1),
        random_weight((1, 20)).expand(6, 20),
    ],
    ids=["transposed", "every second", "swapped lead", "expanded"],
)
def test_inputs_of_any_strides(x):
    layer = sparse_layer(CSR)
    with torch.no_grad():
        assert_product(layer(x), x, layer.weight, layer.bias)
    assert_product(layer(x).detach(), x, layer.weight, layer.bias)


@every_format
def test_gradients(family):
    layer = sparse_layer(family, (5, 8), dtype=torch.float64)
    x = random_weight((2, 3, 8), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, bias: torch.func.functional_call(layer, {"bias": bias}, (x,)), (x, layer.bias)
    )
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand_as(x))
    assert torch.equal(layer.bias.grad, torch.full_like(layer.bias, 6.0))


def test_from_dense_reads_the_zeros_and_leaves_the_layer_alone():
    linear = dense_layer((64, 64))
    with torch.no_grad():
        linear.weight[random_weight((64, 64), seed=9).abs() < 1.5] = 0.0
    linear.eval().bias.requires_grad_(False)
    before = linear.weight.detach().clone()
    layer = SparseLinear.from_dense(linear)
    assert layer.format is CSR
    assert same_bits(layer.weight, before)
    assert same_bits(linear.weight.detach(), before)
    assert not layer.training
    assert not layer.bias.requires_grad
    linear.bias.data.zero_()
    assert not torch.equal(layer.bias, linear.bias)


def test_from_dense_takes_masks_tensors_and_names():
    linear, keep = dense_layer(), random_mask((12, 20), Unstructured(), 0.9).keep
    for mask in (keep, Mask(keep)):
        for family in (None, CSR, "csr"):
            layer = SparseLinear.from_dense(linear, mask, family)
            assert layer.format is CSR
            assert same_bits(layer.weight, linear.weight.detach() * keep + 0.0)


@pytest.mark.parametrize(
    ("pattern", "sparsity", "family"),
    [
        (Unstructured(), 0.2, Dense),
        (Unstructured(), 0.4, Bitmask),
        (Unstructured(), 0.69, Bitmask),
        (Unstructured(), 0.7, CSR),
        (Block(8, 4), 0.0, BlockCSR),
        (Block(4, 8), 0.0, CSR),
        (Block(1, 4), 0.5, CSR),
    ],
    ids=str,
)
def test_the_rule(pattern, sparsity, family):
    assert by_rule(random_mask((20, 20), pattern, sparsity)) is family


@pytest.mark.parametrize(
    ("pattern", "sparsity", "family"),
    [
        (Unstructured(), 0.2, Dense),
        (Unstructured(), 0.4, Bitmask),
        (Unstructured(), 0.8, Bitmask),
        (Unstructured(), 0.9, DeltaCSR),
        (Block(4, 4), 0.0, BlockCSR),
        (NM(2, 4), 0.0, NMPacked),
        (NM(1, 4), 0.0, Bitmask),
    ],
    ids=str,
)
def test_the_rule_on_a_gpu(pattern, sparsity, family, monkeypatch):
    monkeypatch.setattr(gpu, "DEVICES", ("cpu",))
    assert by_rule(random_mask((20, 20), pattern, sparsity)) is family


def test_what_is_trained_is_not_stored_as_nm_on_a_gpu(monkeypatch):
    mask = random_mask((20, 20), NM(2, 4), 0.0)
    assert by_rule(mask, trainable=True) is Bitmask
    assert by_rule(random_mask((20, 20), Block(4, 4), 0.5), trainable=True) is BlockCSR
    monkeypatch.setattr(gpu, "DEVICES", ("cpu",))
    assert by_rule(mask, trainable=True) is Bitmask


def test_on_a_gpu_an_example_is_measured_cold(monkeypatch):
    class Cold(HostClock):
        evicted = 100

    clock, seen = Cold(), []

    def fastest(candidates, budget_s, before, clock):
        before()
        seen.append(clock)
        return dict.fromkeys(candidates, 1.0)

    monkeypatch.setattr(sparsekit.nn.choice, "clock_of", lambda device: clock)
    monkeypatch.setattr(sparsekit.nn.choice, "fastest", fastest)
    SparseLinear.from_dense(dense_layer(), random_mask((12, 20), Unstructured(), 0.5), example=torch.zeros(3, 20))
    assert seen == [clock]


def test_an_example_decides_by_measurement(monkeypatch):
    own = Kernel("bitmask_linear_own", Bitmask, lambda problem: None, REFERENCE_KERNELS[2].bind)
    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (own, *REFERENCE_KERNELS))
    seen = []

    def fastest(candidates, budget_s, before, clock):
        seen.extend(candidates)
        assert all(call().shape == (6, 12) for call in candidates.values())
        return {"bitmask_linear_own": 1.0, "dense_linear_reference": 2.0}

    monkeypatch.setattr(sparsekit.nn.choice, "fastest", fastest)
    layer = SparseLinear.from_dense(
        dense_layer(), random_mask((12, 20), Unstructured(), 0.9), example=torch.zeros(2, 3, 20)
    )
    assert layer.format is Bitmask
    assert layer.kernel_by_batch == {6: "bitmask_linear_own"}
    assert seen == ["dense_linear_reference", "bitmask_linear_own"]


def test_an_example_is_really_timed():
    layer = SparseLinear.from_dense(dense_layer(), example=torch.zeros(3, 20))
    assert layer.format in FORMATS


def constant(name, value, family=CSR):
    return Kernel(
        name, family, lambda problem: None, lambda packed: lambda x, bias: torch.full((x.shape[0], packed.rows), value)
    )


def test_kernels_follow_the_batch_size(monkeypatch):
    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (constant("first", 1.0), constant("second", 2.0)))
    packed = sparse_layer(CSR).packed
    layer = SparseLinear.from_packed(packed, kernel_by_batch={6: "second", 3: "from_another_machine"})
    for x, value in (
        (torch.zeros(6, 20), 2.0),
        (torch.zeros(2, 3, 20), 2.0),
        (torch.zeros(3, 20), 1.0),
        (torch.zeros(20), 1.0),
    ):
        for grad in (False, True):
            assert torch.equal(layer(x.clone().requires_grad_(grad)), torch.full((*x.shape[:-1], 12), value))
    assert "kernel=second at batch 6, from_another_machine at batch 3" in repr(layer)


def test_kernels_of_the_user_come_first():
    layer = SparseLinear.from_packed(sparse_layer(CSR).packed, kernels=(constant("mine", 3.0), *REFERENCE_KERNELS))
    assert torch.equal(layer(torch.zeros(2, 20)), torch.full((2, 12), 3.0))
    assert "kernel=mine" in repr(layer)


def test_a_changed_number_of_threads_chooses_anew(monkeypatch):
    alone = Kernel("alone", CSR, lambda p: "one thread only" if p.threads > 1 else None, constant("", 1.0).bind)
    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (alone, constant("many", 2.0)))
    layer, threads = SparseLinear.from_packed(sparse_layer(CSR).packed), torch.get_num_threads()
    try:
        for count, value in ((1, 1.0), (2, 2.0), (1, 1.0)):
            torch.set_num_threads(count)
            assert layer(torch.zeros(2, 20))[0, 0] == value
    finally:
        torch.set_num_threads(threads)


def test_sees_changes_of_its_buffers():
    layer, x = sparse_layer(CSR, bias=False), random_weight((3, 20))
    before = layer(x)
    layer.packed_values.mul_(2.0)
    assert torch.equal(layer(x), 2.0 * before)
    for factor in (3.0, 4.0):  # two fresh tensors of the same version
        layer.packed_values = factor * sparse_layer(CSR, bias=False).packed_values
        assert torch.allclose(layer(x), factor * before)


def test_repr():
    text = repr(SparseLinear.from_dense(dense_layer(), random_mask((12, 20), Unstructured(), 0.9), Dense))
    assert text.startswith("SparseLinear(in_features=12"[:12])
    assert "in_features=20, out_features=12, bias=True, sparsity=0.9000, format=dense, kernel=" in text


def test_wrong_input_is_one_error_that_names_the_layer():
    layer = sparse_layer(CSR)
    layer.layer_name = "encoder.layer.0.query"
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            with pytest.raises(InputError, match=r"^encoder\.layer\.0\.query: expected float32 input, got float64$"):
                layer(torch.zeros(3, 20, dtype=torch.float64))
            with pytest.raises(InputError, match=r"^encoder\.layer\.0\.query: expected float32 input, got int64$"):
                layer(torch.zeros(3, 20, dtype=torch.int64))
            with pytest.raises(InputError, match=r"query: expected an input of shape \(\.\.\., 20\), got \(3, 21\)$"):
                layer(torch.zeros(3, 21))
            with pytest.raises(InputError, match=r"query: expected an input of shape \(\.\.\., 20\), got \(\)$"):
                layer(torch.zeros(()))
            with pytest.raises(InputError, match=r"query: expected input on cpu, got it on meta$"):
                layer(torch.zeros(3, 20, device="meta"))


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(LayerError, match=r"expected a torch\.nn\.Linear, got Conv2d"):
        SparseLinear.from_dense(nn.Conv2d(3, 4, 1))
    with pytest.raises(LayerError, match="meta device or lazy"):
        SparseLinear.from_dense(nn.Linear(3, 4, device="meta"))
    with pytest.raises(LayerError, match="meta device or lazy"):
        SparseLinear.from_dense(nn.LazyLinear(3))
    integer = nn.Linear(3, 4, bias=False)
    integer.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(LayerError, match=r"got torch\.int8"):
        SparseLinear.from_dense(integer)
    linear = dense_layer()
    with pytest.raises(MaskError, match=r"expected a mask of shape \(12, 20\), got \(20, 12\)"):
        SparseLinear.from_dense(linear, torch.ones(20, 12, dtype=torch.bool))
    with pytest.raises(MaskError, match="expected a bool tensor"):
        SparseLinear.from_dense(linear, torch.ones(12, 20))
    with pytest.raises(FormatError, match="expected one of dense, csr"):
        SparseLinear.from_dense(linear, format="coo")
    with pytest.raises(FormatError, match="block_csr refuses"):
        SparseLinear.from_dense(linear, torch.ones(12, 20, dtype=torch.bool), BlockCSR)
    with pytest.raises(InputError, match=r"example: expected an input of shape \(\.\.\., 20\), got \(3, 19\)"):
        SparseLinear.from_dense(linear, example=torch.zeros(3, 19))
    with pytest.raises(InputError, match=r"expected a bias of shape \(12,\), got \(20,\)"):
        SparseLinear.from_packed(sparse_layer(CSR).packed, torch.zeros(20))


def test_autocast_keeps_the_weights_dtype():
    layer, x = sparse_layer(CSR), random_weight((3, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                assert_product(layer(x).detach(), x, layer.weight, layer.bias)
                assert_product(layer(x.bfloat16()).detach(), x.bfloat16().float(), layer.weight, layer.bias)
        with pytest.raises(InputError, match="expected float32 input, got int64"):
            layer(torch.zeros(3, 20, dtype=torch.int64))


def test_a_bias_that_was_exchanged_is_checked():
    layer = sparse_layer(CSR)
    layer(torch.zeros(3, 20))
    layer.bias = nn.Parameter(layer.bias.detach().double(), requires_grad=False)
    with pytest.raises(InputError, match="expected float32 bias, got float64"):
        layer(torch.zeros(3, 20))


@every_format
def test_a_layer_made_in_inference_mode_can_be_trained(family):
    with torch.inference_mode():
        layer = sparse_layer(family)
    x = random_weight((3, 20)).requires_grad_()
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand_as(x))


def test_many_threads_agree():
    layer = sparse_layer(CSR, (40, 60))
    inputs = [random_weight((batch, 60), seed=batch) for batch in range(1, 9)] * 4
    results: list[torch.Tensor | None] = [None] * len(inputs)

    def work(at):
        with torch.no_grad():
            results[at] = layer(inputs[at])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, y in zip(inputs, results):
        assert_product(y, x, layer.weight, layer.bias)
