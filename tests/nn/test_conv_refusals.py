"""What SparseConv2d says to layers and input that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.errors import FormatError, InputError, LayerError, MaskError
from sparsekit.formats import BlockCSR
from sparsekit.kernels import Convolution
from sparsekit.nn import SparseConv2d
from tests.nn.test_conv import dense_conv, sparse_conv


def test_wrong_input_is_one_error_that_names_the_layer():
    layer = sparse_conv()
    layer.layer_name = "features.3"
    with torch.no_grad():
        layer(torch.zeros(1, 6, 4, 4))  # a size that it remembers is no pass
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for x, message in (
                (torch.zeros(1, 5, 4, 4), r"an input of 6 channels, got 5$"),
                (torch.zeros(6, 4, 4), r"an input of 4 dimensions \(N, C, H, W\), got \(6, 4, 4\)$"),
                (torch.zeros(1, 6, 4, 4, 4), r"an input of 4 dimensions \(N, C, H, W\), got \(1, 6, 4, 4, 4\)$"),
                (torch.zeros(()), r"an input of 4 dimensions \(N, C, H, W\), got \(\)$"),
                (torch.zeros(1, 6, 0, 4), r"a padded image of at least 3 x 3, got 2 x 6 from an image of 0 x 4$"),
                (torch.zeros(1, 6, 4, 4).double(), "float32 input, got float64$"),
                (torch.zeros(1, 6, 4, 4, dtype=torch.complex64), "float32 input, got complex64$"),
                (torch.zeros(1, 6, 4, 4, device="meta"), "input on cpu, got it on meta$"),
            ):
                with pytest.raises(InputError, match=rf"^features\.3: expected {message}"):
                    layer(x)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (1, 2), "a padded image of at least 5 x 5, got 3 x 4 from an image of 1 x 2"),
        ({"dilation": 2}, (6, 7), "a padded image of at least 9 x 9, got 8 x 9 from an image of 6 x 7"),
        (
            {"padding": 3, "padding_mode": "reflect"},
            (3, 4),
            "an image of at least 4 x 4 for reflect .*, got 3 x 4",
        ),
        (
            {"padding": 3, "padding_mode": "circular"},
            (3, 2),
            "an image of at least 3 x 3 for circular .*, got 3 x 2",
        ),
    ],
)
def test_an_image_that_is_too_small(settings, shape, message):
    layer = SparseConv2d.from_dense(dense_conv(6, 8, 5, **{"padding": 1, **settings}))
    layer(torch.zeros(1, 6, 9, 9))
    for grad in (False, True):
        with torch.set_grad_enabled(grad), pytest.raises(InputError, match=f"SparseConv2d: expected {message}"):
            layer(torch.zeros(1, 6, *shape))
    assert layer(torch.zeros(1, 6, 9, 9)).shape[0] == 1


def test_what_cannot_be_packed_is_refused():
    for other in (nn.ConvTranspose2d(3, 4, 1), nn.Conv1d(3, 4, 1), nn.Conv3d(3, 4, 1), nn.Linear(3, 4)):
        with pytest.raises(LayerError, match=rf"expected a torch\.nn\.Conv2d, got {type(other).__name__}"):
            SparseConv2d.from_dense(other)
    for absent in (nn.Conv2d(3, 4, 1, device="meta"), nn.LazyConv2d(3, 1)):
        with pytest.raises(LayerError, match="expected a Conv2d with data, got one that is on the meta device or lazy"):
            SparseConv2d.from_dense(absent)
    with pytest.raises(LayerError, match=r"float16 weight, got torch\.complex64"):
        SparseConv2d.from_dense(nn.Conv2d(3, 4, 1, dtype=torch.complex64))
    conv = dense_conv()
    with pytest.raises(MaskError, match=r"^weight: expected a mask of shape \(8, 6, 3, 3\), got \(6, 8, 3, 3\)"):
        SparseConv2d.from_dense(conv, torch.ones(6, 8, 3, 3, dtype=torch.bool))
    with pytest.raises(MaskError, match="expected a bool tensor"):
        SparseConv2d.from_dense(conv, torch.ones(8, 6, 3, 3))
    with pytest.raises(FormatError, match="expected one of dense, csr"):
        SparseConv2d.from_dense(conv, format="coo")
    with pytest.raises(FormatError, match="block_csr refuses"):
        SparseConv2d.from_dense(conv, torch.ones(8, 6, 3, 3, dtype=torch.bool), BlockCSR)
    with pytest.raises(LayerError, match="expected an activation of none, relu, silu, got 'gelu'"):
        SparseConv2d.from_dense(conv, activation="gelu")
    with pytest.raises(InputError, match=r"example: expected an input of 6 channels, got 7"):
        SparseConv2d.from_dense(conv, example=torch.zeros(3, 7, 4, 4))
    packed = sparse_conv().packed
    with pytest.raises(LayerError, match="expected a weight of 45 columns, got 8 x 54"):
        SparseConv2d.from_packed(packed, Convolution(5, (3, 3)))
    with pytest.raises(LayerError, match="expected a weight of 54 columns, rows a multiple of 3, got 8 x 54"):
        SparseConv2d.from_packed(packed, Convolution(18, (3, 3), groups=3))
    with pytest.raises(LayerError, match="expected a padding mode of zeros, reflect, replicate, circular, got 'edge'"):
        SparseConv2d.from_packed(packed, Convolution(6, (3, 3)), padding_mode="edge")
    with pytest.raises(InputError, match=r"expected a bias of shape \(8,\), got \(6,\)"):
        SparseConv2d.from_packed(packed, Convolution(6, (3, 3)), torch.zeros(6))


def test_a_bias_that_was_exchanged_is_checked():
    layer = sparse_conv()
    with torch.no_grad():
        layer(torch.zeros(1, 6, 4, 4))
    layer.bias = nn.Parameter(layer.bias.detach().double(), requires_grad=False)
    with pytest.raises(InputError, match="expected float32 bias, got float64"):
        layer(torch.zeros(1, 6, 4, 4))
