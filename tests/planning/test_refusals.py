import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.planning import plan


def network():
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plan("model", 1), sk.LayerError, "expected a torch.nn.Module, got str"),
        (lambda: plan(nn.Linear(2, 2, device="meta"), torch.randn(1, 2)), sk.LayerError, "weight.*meta device"),
        (lambda: plan(nn.Linear(2, 2), torch.randn(1, 3)), sk.InputError, r"expected what Linear takes.*\(1, 3\)"),
        (lambda: plan(nn.Linear(2, 2), {"y": 1}), sk.InputError, "example_inputs"),
        (
            lambda: plan(nn.LazyLinear(2), torch.randn(1, 3)),
            sk.LayerError,
            "weight: expected a tensor with data, got a lazy",
        ),
        (lambda: plan(nn.Linear(2, 2), torch.randn(1, 2), [1]), sk.MaskError, "masks by parameter name, got a list"),
        (
            lambda: plan(nn.Linear(2, 2), torch.randn(1, 2), {"weight": torch.ones(2, 2)}),
            sk.MaskError,
            "weight: mask: expected a bool tensor.*float32",
        ),
        (
            lambda: plan(network(), torch.randn(1, 20), {"0.wieght": torch.ones(32, 20).bool()}),
            sk.LayerError,
            "0.wieght; did you mean 0.weight",
        ),
        (
            lambda: plan(network(), torch.randn(1, 20), {"0.weight": torch.ones(2, 2).bool()}),
            sk.MaskError,
            r"0.weight: expected a mask of shape \(32, 20\), got \(2, 2\)",
        ),
        (
            lambda: plan(network(), torch.randn(1, 20), {"0.weight": torch.ones(32, 20).bool().to("meta")}),
            sk.MaskError,
            "on cpu, got one on meta",
        ),
    ],
)
def test_bad_input_is_one_error(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_integer_weight_is_named():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(sk.LayerError, match=r"0\.weight: expected a floating weight, got torch\.int8"):
        plan(model, torch.randn(1, 4))
