"""The native gradients in every instruction set against float64, and where stored values stand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsekit.kernels
from sparsekit.errors import FormatError
from sparsekit.formats import FORMATS, QUANTIZED_FORMATS, BlockCSR, positions, stored_weights
from sparsekit.kernels import REFERENCE_GRADIENT_KERNELS, Problem
from sparsekit.kernels.binding import bound
from sparsekit.kernels.native import NATIVE_GRADIENT_KERNELS, describe
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block
from tests.kernels.test_extension import Guarded
from tests.kernels.test_native import BLOCKS, ISAS, LAYOUTS
from tests.numerics import assert_product
from tests.test_ops import operands, packed_in
from tests.weights import random_mask, random_weight, same_bits, seeds

(BLOCK_CSR_GRADIENTS,) = NATIVE_GRADIENT_KERNELS
every_isa = pytest.mark.parametrize("isa", ISAS[:3])
HIGH_ENOUGH = [sides for sides in BLOCKS if sides[0] >= 4]


@pytest.fixture
def _as(isa, monkeypatch):
    """Run with one instruction set and one thread; skip where the processor or the build has not got it."""
    before = torch.get_num_threads()
    monkeypatch.setenv("SPARSEKIT_ISA", isa)
    if (in_use := describe()["in_use"].get("block_grad")) != isa:
        pytest.skip(f"block_grad runs as {in_use} here, not as {isa}")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pack(shape, block, sparsity, seed=0):
    return BlockCSR.pack(random_weight(shape, seed=seed), random_mask(shape, Block(*block), sparsity, seed))


def check(packed, grad, x):
    """Judge both gradients; what stands for no weight is exactly 0."""
    gradients = BLOCK_CSR_GRADIENTS.bind(packed, {})
    assert_product(gradients.of_x(grad), grad, packed.unpack().T)
    values = gradients.of_part(grad, x, "values")
    assert values.shape == packed.values.shape
    places = positions(packed)["values"]
    assert not torch.count_nonzero(values[places < 0])
    kept = torch.zeros(packed.rows * packed.columns, dtype=torch.bool)
    kept[places[places >= 0]] = True
    found = packed.from_parts({**packed.tensors(), "values": values}, packed.integers()).unpack()
    kept = kept.reshape(found.shape)
    assert_product(torch.where(kept, found, (grad.double().T @ x.double()).float()), grad.T, x.T)


@every_isa
@pytest.mark.usefixtures("_as")
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(0, 120), st.integers(0, 120)),
    block=st.sampled_from(BLOCKS),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    options=st.tuples(st.sampled_from([0.0, 0.5, 0.9, 1.0]), seeds, st.sampled_from([1, 2, 5])),
)
def test_gradients(isa, sizes, block, layouts, options):
    (batch, rows, columns), (sparsity, seed, threads) = sizes, options
    torch.set_num_threads(threads)
    packed = pack((rows, columns), block, sparsity, seed)
    check(packed, LAYOUTS[layouts[0]](batch, rows), LAYOUTS[layouts[1]](batch, columns))


@every_isa
@pytest.mark.usefixtures("_as")
@pytest.mark.parametrize("block", HIGH_ENOUGH, ids=str)
@pytest.mark.parametrize("shape", [(128, 192), (65, 37), (23, 5)], ids=str)
def test_every_block_shape(isa, block, shape):
    for batch, sparsity in itertools.product((1, 7, 33), (0.0, 0.6)):
        packed = pack(shape, block, sparsity)
        check(packed, random_weight((batch, shape[0]), seed=1), random_weight((batch, shape[1]), seed=2))


@every_isa
@pytest.mark.usefixtures("_as")
@pytest.mark.parametrize("batch", [15, 16, 17, 63, 64, 65, 255, 256, 257, 600])
def test_batches_around_the_sizes_that_are_taken_together(isa, batch):
    torch.set_num_threads(2)
    packed = pack((40, 37), (8, 4), 0.5)
    check(packed, random_weight((batch, 40), seed=1), random_weight((batch, 37), seed=2))


@every_isa
@pytest.mark.usefixtures("_as")
@pytest.mark.parametrize("block", [(16, 16), (16, 1)], ids=str)
def test_a_matrix_of_several_tiles(isa, block):
    keep = Block(*block).select(random_weight((48, 2000)).abs(), 0.8)
    keep[16:32] = False
    keep[:, 1400:1600] = False
    packed = BlockCSR.pack(random_weight((48, 2000)), Mask(keep, Block(*block)))
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        check(packed, random_weight((20, 48), seed=1), random_weight((20, 2000), seed=2))


@every_isa
@pytest.mark.usefixtures("_as")
def test_threads_change_no_bit(isa):
    packed, grad, x = pack((200, 150), (8, 8), 0.5), random_weight((300, 200), seed=1), random_weight((300, 150))
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        gradients = BLOCK_CSR_GRADIENTS.bind(packed, {})
        found.append((gradients.of_x(grad), gradients.of_part(grad, x, "values")))
    assert all(same_bits(a, b) for other in found[1:] for a, b in zip(found[0], other))


@every_isa
@pytest.mark.usefixtures("_as")
def test_padding_gets_no_gradient_even_from_infinity(isa):
    packed = pack((21, 19), (16, 16), 0.0)
    grad, x = torch.full((5, 21), torch.inf), torch.full((5, 19), torch.nan)
    values = BLOCK_CSR_GRADIENTS.bind(packed, {}).of_part(grad, x, "values")
    places = positions(packed)["values"]
    assert bool(values[places >= 0].isnan().all())
    assert not torch.count_nonzero(values[places < 0])


def test_padding_gets_no_gradient_from_the_reference():
    packed = pack((21, 19), (16, 16), 0.0)
    grad, x = torch.ones(5, 21), torch.ones(5, 19)
    values = REFERENCE_GRADIENT_KERNELS[-1].bind(packed, {}).of_part(grad, x, "values")
    assert torch.equal(values, torch.where(positions(packed)["values"] < 0, 0.0, 5.0))


@every_isa
@pytest.mark.usefixtures("_as")
@pytest.mark.parametrize("block", [(16, 16), (5, 3), (24, 7)], ids=str)
def test_nothing_beyond_the_end_of_a_buffer_is_touched(isa, block, monkeypatch):
    guarded, packed = Guarded(), pack((36, 45), block, 0.3)
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda t, shape: guarded.at_the_end(empty(t, shape)))
    parts = {name: guarded.at_the_end(tensor) for name, tensor in packed.tensors().items()}
    for batch in (1, 3, 19):
        grad, x = (guarded.at_the_end(random_weight((batch, size))) for size in (36, 45))
        gradients = BLOCK_CSR_GRADIENTS.bind(packed.from_parts(parts, packed.integers()), {})
        gradients.of_x(grad)
        gradients.of_part(grad, x, "values")


def test_low_blocks_go_to_the_reference():
    packed = pack((16, 16), (2, 8), 0.5)
    refusal = BLOCK_CSR_GRADIENTS.refuses(Problem(packed, 8))
    assert str(refusal) == "it runs blocks of at least 4 rows, not of 2"


@pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)
def test_positions_by_one_value_at_a_time(family):
    packed = packed_in(family, (5, 9))
    found = positions(packed)
    for name, tensor in packed.tensors().items():
        if not tensor.is_floating_point():
            assert name not in found
            continue
        zeros = {n: torch.zeros_like(t) if t.is_floating_point() else t for n, t in packed.tensors().items()}
        for at in range(tensor.numel()):
            one = torch.zeros_like(tensor)
            one.view(-1)[at] = 1.0
            dense = packed.from_parts({**zeros, name: one}, packed.integers()).unpack().flatten()
            place = int(found[name].flatten()[at])
            assert dense.nonzero().flatten().tolist() == ([place] if place >= 0 else [])


@pytest.mark.parametrize("family", QUANTIZED_FORMATS, ids=lambda f: f.name)
def test_rounded_weights_have_no_positions(family):
    packed = family.pack(random_weight((32, 32)), random_mask((32, 32), Block(16, 16), 0.5))
    with pytest.raises(FormatError, match=f"{family.name}: expected weights that are stored as they are, got"):
        positions(packed)


def test_stored_weights_counts_places_and_not_values():
    weight = torch.zeros(5, 8)
    assert stored_weights(BlockCSR.pack(weight, random_mask((5, 8), Block(3, 5), 0.0))) == 40
    sparse = Mask(torch.eye(4, 8, dtype=torch.bool), NM(2, 4))
    assert stored_weights(FORMATS[3].pack(torch.ones(4, 8), sparse)) == 16


def test_places_are_found_once_while_values_change(monkeypatch):
    packed = packed_in(FORMATS[1])
    parts, integers, name = operands(packed)
    grad, x = random_weight((4, 12)), random_weight((4, 18))

    def gradients():
        return bound(name, parts, integers).gradients(4, sparsekit.kernels.GRADIENT_KERNELS)

    before = gradients().of_part(grad, x, "values")
    monkeypatch.setattr(sparsekit.kernels.reference, "positions", lambda packed: pytest.fail("found anew"))
    parts[0].mul_(2.0)
    assert torch.equal(gradients().of_part(grad, x, "values"), before)
    monkeypatch.undo()
    parts[1].view(torch.int16).copy_(torch.zeros(0, dtype=torch.int16).new_zeros(parts[1].shape))
    assert bound(name, parts, integers).places == {}
