"""The printed plan."""

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.planning import plan
from sparsekit.planning.table import HEADERS


def test_the_printed_plan_names_layers_kernels_and_reasons(measured):
    long_name = "a_block_with_a_long_name" * 3
    model = nn.ModuleDict({long_name: nn.Linear(20, 32), "dense": nn.Linear(20, 8)})
    model.forward = lambda x: (model[long_name](x), model["dense"](x))
    sk.prune(model, sk.Magnitude(), sparsity=0.9, layers=[long_name])
    text = str(plan(model, torch.randn(6, 20)))
    assert all(word in text for word in ("dense us", "sparse us", "why not", "csr_mv_native", "no zeros", "3.27x"))
    assert long_name in text
    assert "1 of 2 layers run sparse" in text
    assert max(map(len, text.splitlines())) <= 180


def test_remainders_are_reported(measured):
    linear = nn.Linear(21, 33)
    sk.prune(linear, sk.Magnitude(), pattern=sk.Block(4, 4), sparsity=0.5)
    assert "1 row and 1 column kept dense" in str(plan(linear, torch.randn(6, 21)))


@pytest.mark.parametrize("force", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_it_is_plain_text_wherever_it_is_printed(measured, monkeypatch, force):
    monkeypatch.setenv(force, "1")
    monkeypatch.setenv("COLUMNS", "40")
    text = str(plan(nn.Linear(20, 8), torch.randn(6, 20)))
    assert "\x1b" not in text
    assert all(header in text.splitlines()[1] for header in HEADERS)
    assert "(the model)" in text


def test_names_are_not_taken_for_markup(measured):
    model = nn.Sequential()
    for name in ("[bold]", "[/]", "x[0]"):
        model.add_module(name, nn.Linear(4, 4))
    text = str(plan(model, torch.randn(6, 4)))
    assert all(name in text for name in ("[bold]", "[/]", "x[0]"))


def test_sizes_of_images_and_times_of_the_whole_model(measured):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(conv, nn.MaxPool2d(2), conv, conv)
    sk.prune(model, sk.Magnitude(), sparsity=0.8)
    text = " ".join(str(plan(model, torch.randn(2, 4, 8, 6))).split())
    assert "2 * 2x4x3, 2x8x6" in text
    assert "csr_conv_native" in text
    assert "1 of 1 layers run sparse" in text
    times = "contiguous 4000000 us, mixed 5000000 us, channels_last 6000000 us, as it is 10000000 us."
    assert f"The whole model, by the order of its images: {times}" in text


def test_without_convolutions_no_whole_model_is_timed(measured):
    assert "whole model" not in str(plan(nn.Linear(20, 8), torch.randn(6, 20)))


def test_a_plan_of_nothing(measured):
    assert "Nothing was measured" in str(plan(nn.ReLU(), torch.randn(6, 4)))
