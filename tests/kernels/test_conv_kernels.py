"""What a convolution is, which of its kernels is chosen, and what those of oneDNN refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsekit.errors import KernelError, LayerError
from sparsekit.formats import CSR, Dense
from sparsekit.kernels import CONV_KERNELS, ConvKernel, Convolution, ConvProblem, choose
from sparsekit.kernels.binding import select
from sparsekit.kernels.conv_prepacked import DENSE_CONV_CHANNELS_LAST, DENSE_CONV_ONEDNN
from sparsekit.kernels.conv_reference import REFERENCE_CONV_KERNELS, convolve_with
from sparsekit.kernels.convolution import in_order_of, memory_format_of
from sparsekit.mask import Mask
from tests.weights import random_weight

PLAIN = Convolution(4, (3, 3), padding=(1, 1, 1, 1))


def packed(convolution, family=Dense, outputs=4, dtype=torch.float32):
    weight = random_weight(convolution.weight_shape(outputs), dtype)
    return family.pack(weight, Mask(weight != 0))


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.just("same"), st.just("valid"), st.tuples(st.integers(0, 3), st.integers(0, 3))),
    size=st.tuples(st.integers(10, 15), st.integers(10, 15)),
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_sizes_are_those_of_torch(kernel, dilation, stride, padding, size):
    stride = (1, 1) if padding == "same" else stride
    conv = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups=2, padding_mode="zeros")
    convolution = Convolution.of(conv, "relu")
    assert convolution.output_size(*size) == conv(torch.zeros(1, 2, *size)).shape[2:]
    assert convolution.columns == conv.weight[0].numel()
    assert convolution.weight_shape(4) == conv.weight.shape
    assert convolution.activation == "relu"
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    assert convolution.padding == (top, bottom, left, right)
    if padding == "same":
        assert convolution.output_size(*size) == size


def test_what_is_padded_with_is_left_to_the_layer():
    around = nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="reflect")
    assert Convolution.of(around).padding == (1, 1, 2, 2)


def test_a_convolution_is_a_value():
    other = replace(PLAIN, stride=(1, 1))
    assert PLAIN == other
    assert hash(PLAIN) == hash(other)
    assert replace(PLAIN, activation="relu") != PLAIN
    for convolution in (PLAIN, Convolution(6, (1, 2), (2, 1), (0, 1, 2, 3), (2, 3), 3, "silu")):
        assert Convolution.from_text(convolution.text) == convolution
        assert Convolution.from_json(convolution.as_json()) == convolution


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_size": (0, 3)}, r"expected kernel_size to be 2 integers of at least 1, got \(0, 3\)"),
        ({"kernel_size": (3,)}, r"expected kernel_size to be 2 integers"),
        ({"stride": (1, 0)}, r"expected stride to be 2 integers of at least 1, got \(1, 0\)"),
        ({"stride": (1.5, 1)}, r"expected stride to be 2 integers"),
        ({"dilation": (0, 1)}, r"expected dilation to be 2 integers"),
        ({"padding": (1, 1)}, r"expected padding to be 4 integers of at least 0, got \(1, 1\)"),
        ({"padding": (0, 0, 0, -1)}, r"expected padding to be 4 integers"),
        ({"groups": 0}, r"expected groups to be 1 integers of at least 1, got \(0,\)"),
        ({"groups": 3}, r"expected channels of 3 groups, got 4"),
        ({"activation": "tanh"}, r"expected an activation of none, relu, silu, got 'tanh'"),
    ],
)
def test_convolutions_that_cannot_be(fields, message):
    with pytest.raises(LayerError, match=f"convolution: {message}"):
        replace(PLAIN, **fields)


def test_the_first_that_does_not_refuse_is_chosen_and_a_plan_may_name_another():
    run = REFERENCE_CONV_KERNELS[0].bind
    small = ConvKernel("small", Dense, lambda p: "it runs small images" if p.size[1] > 4 else None, run)
    other, sparse = ConvKernel("other", Dense, lambda p: None, run), ConvKernel("sparse", CSR, lambda p: None, run)
    kernels = (sparse, small, other)
    for height, name in ((4, "small"), (5, "other")):
        problem = ConvProblem(packed(PLAIN), PLAIN, (1, height, 4))
        assert choose(problem, kernels).name == name
        assert select(problem, {(1, height, 4): "other"}, kernels).name == "other"
        assert select(problem, {(2, height, 4): "other", (1, height, 4): "sparse"}, kernels).name == name
    assert select(problem, {(1, 5, 4): "small"}, kernels).name == "other"
    with pytest.raises(
        KernelError,
        match=r"^no kernel convolves 1 images of 5 x 4 with dense in torch.float32 on cpu by Convolution.*: small: it",
    ):
        choose(problem, (sparse, small))
    with pytest.raises(KernelError, match="none is registered for this format"):
        choose(problem, ())


@pytest.mark.parametrize(
    ("convolution", "size", "dtype", "reason"),
    [
        (PLAIN, (1, 5, 5), torch.float32, None),
        (PLAIN, (1, 5, 5), torch.float64, "it does not run float64"),
        (replace(PLAIN, padding=(0, 1, 0, 1)), (1, 5, 5), torch.float32, "it pads both sides alike, not by"),
        (PLAIN, (0, 5, 5), torch.float32, "it needs a weight and a batch that are not empty"),
    ],
)
def test_onednn_says_what_it_does_not_run(convolution, size, dtype, reason):
    refusal = DENSE_CONV_ONEDNN.refuses(ConvProblem(packed(convolution, dtype=dtype), convolution, size))
    assert (refusal is None) == (reason is None)
    assert reason is None or str(refusal).startswith(reason)


def test_onednn_is_refused_where_torch_has_none(monkeypatch):
    problem = ConvProblem(packed(PLAIN, dtype=torch.bfloat16), PLAIN, (1, 5, 5))
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert str(DENSE_CONV_ONEDNN.refuses(problem)) == "this torch has no oneDNN"


@pytest.mark.parametrize("kernel", [DENSE_CONV_ONEDNN, DENSE_CONV_CHANNELS_LAST], ids=lambda k: k.name)
def test_prepacked_kernels_return_channels_last_for_images_of_any_order(kernel):
    run = kernel.bind(packed(PLAIN), PLAIN)
    for x in (random_weight((2, 4, 5, 6)), random_weight((2, 4, 5, 6)).to(memory_format=torch.channels_last)):
        assert run(x, None).is_contiguous(memory_format=torch.channels_last)


def test_onednn_packs_once(monkeypatch):
    reorder, calls = torch.ops.mkldnn._reorder_convolution_weight, []

    def counting(*args):
        calls.append(args)
        return reorder(*args)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", counting)
    run = DENSE_CONV_ONEDNN.bind(packed(PLAIN), PLAIN)
    for size in (5, 6, 5):
        run(torch.zeros(1, 4, size, size), None)
    assert len(calls) == 1


def test_results_lie_in_the_order_of_the_images():
    x = random_weight((2, 4, 5, 6))
    last = x.to(memory_format=torch.channels_last)
    assert memory_format_of(x) is memory_format_of(x[:, :1]) is memory_format_of(x[:, :, :1, :1])
    assert memory_format_of(x) is torch.contiguous_format
    assert memory_format_of(last) is memory_format_of(last[:, :, 1:, 2:]) is torch.channels_last
    assert in_order_of(x, x) is x
    assert in_order_of(last, x).stride() == last.stride()


def test_the_tuple_ends_with_what_only_a_measurement_chooses():
    assert CONV_KERNELS[-2:] == (DENSE_CONV_ONEDNN, DENSE_CONV_CHANNELS_LAST)
    assert choose(ConvProblem(packed(PLAIN), PLAIN, (1, 5, 5)), CONV_KERNELS).name == "dense_conv_reference"


def test_images_of_one_channel_in_channels_last():
    x, weight = random_weight((1, 1, 5, 4)).to(memory_format=torch.channels_last), random_weight((1, 1, 4, 4), seed=1)
    convolution = Convolution(1, (4, 4), (1, 3))
    exact = torch.stack([(x[0, 0, top : top + 4] * weight[0, 0]).double().sum() for top in (0, 1)])
    torch.testing.assert_close(convolve_with(weight, convolution)(x, None).flatten().double(), exact, rtol=0, atol=1e-5)
