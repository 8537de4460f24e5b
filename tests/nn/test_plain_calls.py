"""What may stand between a layer and its kernel: another default device, a new bias, a negative view, a trace."""

import pytest
import torch

import sparsekit as sk
from sparsekit.errors import FormatError, InputError
from sparsekit.kernels import CONV_KERNELS, Convolution
from sparsekit.kernels.native import describe
from sparsekit.patterns import KernelSlice
from tests.weights import random_weight

LAYERS = {
    "linear": (torch.nn.Linear(24, 16), sk.nn.SparseLinear, (5, 24)),
    "conv2d": (torch.nn.Conv2d(8, 16, 3, padding=1), sk.nn.SparseConv2d, (2, 8, 9, 11)),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    """A sparse layer that asks for no gradient, and an input."""
    dense, family, shape = LAYERS[request.param]
    mask = sk.Mask(sk.Unstructured().select(dense.weight.detach().abs(), 0.9))
    return family.from_dense(dense, mask).requires_grad_(False).eval(), random_weight(shape)


def test_the_default_device_is_not_the_inputs(layer):
    sparse, x = layer
    expected = sparse(x)
    with torch.device("meta"):
        assert torch.equal(sparse(x), expected)


def test_a_bias_that_was_replaced_is_checked_again(layer):
    sparse, x = layer
    sparse(x)
    sparse.bias = torch.nn.Parameter(torch.zeros(1), False)
    with pytest.raises(InputError, match=r"expected a bias of shape \(16,\), got \(1,\)"):
        sparse(x)
    sparse.bias = torch.nn.Parameter(torch.zeros(16, device="meta"), False)
    with pytest.raises(InputError, match="expected bias on cpu, got it on meta"):
        sparse(x)


def test_the_sign_of_a_negative_view_counts(layer):
    sparse, x = layer
    bias = sparse.bias.detach()
    expected = sparse(x)
    sparse.bias = torch.nn.Parameter(torch._neg_view(-bias), False)
    assert sparse.bias.is_neg()
    torch.testing.assert_close(sparse(x), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_records_the_operator(layer):
    sparse, x = layer
    traced = torch.jit.trace(sparse, x)
    other = random_weight(tuple(x.shape), seed=9)
    torch.testing.assert_close(traced(other), sparse(other))


@pytest.mark.skipif(bool(describe()["reason"]), reason="there are no native kernels")
def test_a_kernel_refuses_an_image_that_is_smaller_than_its_weight():
    conv = torch.nn.Conv2d(8, 4, (4, 1), (2, 1))
    packed = sk.formats.CSR.pack(conv.weight.detach(), sk.Mask(torch.ones_like(conv.weight, dtype=torch.bool)))
    kernel = next(kernel for kernel in CONV_KERNELS if kernel.name == "csr_conv_native")
    with pytest.raises((ValueError, FormatError), match="as large as the kernel"):
        kernel.bind(packed, Convolution.of(conv))(torch.randn(1, 8, 3, 64), None)


@pytest.mark.parametrize("step", [1, 2])
def test_whole_kernels_that_are_all_gone_leave_the_bias(step):
    conv = torch.nn.Conv2d(3, 5, 3, step, 1)
    sparse = sk.nn.SparseConv2d.from_dense(
        conv, sk.Mask(torch.zeros_like(conv.weight, dtype=torch.bool), KernelSlice())
    )
    y = sparse(torch.randn(2, 3, 7, 8))
    assert torch.equal(y, conv.bias.detach()[:, None, None].expand_as(y))
