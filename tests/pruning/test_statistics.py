import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.pruning.statistics import Gram, InputNorm, LayerStatistics, groups_of, input_rows
from sparsekit.pruning.statistics import inputs as statistics

CONVS = [
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": (2, 4), "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular"},
    {"kernel_size": 3, "padding": "same", "padding_mode": "replicate"},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 3, "groups": 4, "stride": 2},
    {"kernel_size": 1},
]


def dense_form(conv, images):
    """The convolution as a matrix from the weight to the outputs, by automatic differentiation: the oracle."""
    shape = conv.weight.shape

    def run(weight):
        return torch.func.functional_call(conv, {"weight": weight.reshape(shape)}, (images,))

    jacobian = torch.func.jacrev(run)(conv.weight.detach().reshape(-1))
    return jacobian.reshape(images.shape[0], shape[0], -1, shape[0], shape[1:].numel())


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_rows_of_a_convolution_are_what_its_outputs_are_computed_from(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, bias=False, dtype=torch.float64, **options)
    images = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    rows = torch.cat(list(input_rows(conv, images)), dim=1)
    jacobian = dense_form(conv, images)  # (batch, out, positions, out, columns)
    for out in range(8):
        expected = jacobian[:, out, :, out].reshape(-1, jacobian.shape[-1])
        torch.testing.assert_close(rows[out * groups_of(conv) // 8], expected)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_rows_times_weight_are_the_outputs(options):
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 8, bias=False, **options)
    images = torch.randn(3, 4, 6, 7)
    groups = groups_of(conv)
    weight = conv.weight.detach().reshape(groups, 8 // groups, -1)
    outputs = torch.cat(list(input_rows(conv, images)), dim=1) @ weight.mT  # (groups, tokens, out / groups)
    expected = conv(images).detach().flatten(2).transpose(1, 2).reshape(outputs.shape[1], groups, -1).transpose(0, 1)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_one_image_without_a_batch():
    conv = nn.Conv2d(2, 3, 3)
    image = torch.randn(2, 5, 5)
    assert torch.equal(next(input_rows(conv, image)), next(input_rows(conv, image[None])))


def test_parts_add_up(monkeypatch):
    conv, images = nn.Conv2d(2, 4, 3), torch.randn(7, 2, 8, 8)
    whole = torch.cat(list(input_rows(conv, images)), dim=1)
    monkeypatch.setattr(statistics, "UNFOLDED_NUMBERS", 2 * images[0].numel() * 9)
    parts = list(input_rows(conv, images))
    assert len(parts) == 4
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_linear_flattens_leading_dimensions():
    inputs = torch.randn(2, 3, 5)
    assert torch.equal(next(input_rows(nn.Linear(5, 1), inputs)), inputs.reshape(1, 6, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_explicit_sums(dtype):
    torch.manual_seed(0)
    parts = [torch.randn(2, 6, 3).to(dtype), torch.randn(2, 1, 3).to(dtype), torch.randn(2, 0, 3).to(dtype)]
    rows = torch.cat(parts, dim=1).double()
    gram, norm = (kind(2, 3, torch.empty(0)) for kind in (Gram, InputNorm))
    for part in parts:
        gram.add(part)
        norm.add(part)
    assert gram.rows == norm.rows == 7
    torch.testing.assert_close(gram.sum.double(), torch.einsum("gtc,gtd->gcd", rows, rows), rtol=1e-5, atol=1e-5)
    expected = rows.norm(dim=1)
    torch.testing.assert_close(norm.norm(6), expected[[0, 0, 0, 1, 1, 1]])
    torch.testing.assert_close(gram.sum.diagonal(dim1=1, dim2=2).double(), expected.square(), rtol=1e-5, atol=1e-5)


def test_depthwise_rows():
    conv = nn.Conv2d(3, 6, 3, groups=3, padding=1)
    images = torch.randn(2, 3, 4, 4)
    rows = next(input_rows(conv, images))
    assert rows.shape == (3, 32, 9)
    one = next(input_rows(nn.Conv2d(1, 2, 3, padding=1), images[:, 1:2]))
    assert torch.equal(rows[1], one[0])


def test_layer_statistics_by_kind():
    gram = Gram(1, 2, torch.empty(0))
    assert LayerStatistics("fc.weight", {Gram: gram})[Gram] is gram
    with pytest.raises(KeyError):
        LayerStatistics("fc.weight")[Gram]


def test_oracle_knows_a_shifted_window():
    """The oracle itself: a one-hot kernel reads the input at its tap."""
    conv = nn.Conv2d(1, 1, 2, bias=False, dtype=torch.float64)
    image = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    assert torch.equal(dense_form(conv, image)[0, 0, :, 0], F.unfold(image, 2)[0].T)
