import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

import sparsekit.kernels
from sparsekit.bench import CONV_CASES, NETWORK_CASES, QUICK_CONV_CASES, ConvCase, ConvLayer, NetworkCase, Results
from sparsekit.bench import conv as conv_bench
from sparsekit.bench import network as network_bench
from sparsekit.bench.memory import warming
from sparsekit.bench.rounding import ERROR_BOUND, expect_exact
from sparsekit.demo.cnn.networks import NETWORKS
from sparsekit.errors import KernelError
from sparsekit.formats import CSR
from sparsekit.kernels import REFERENCE_CONV_KERNELS
from sparsekit.patterns import OnePerKernel, Unstructured

LAYER = ConvLayer(4, 6, 3, 7, stride=2)
CASE = ConvCase(LAYER, Unstructured(), {0.5: 2.0, 0.9: None}, batch=2, threads=(1,))


@pytest.fixture
def sparse_kernel(monkeypatch):
    """A sparse kernel that is right; returned is what makes another one instead."""
    reference = next(kernel for kernel in REFERENCE_CONV_KERNELS if kernel.format is CSR)
    dense = tuple(kernel for kernel in sparsekit.kernels.CONV_KERNELS if kernel.format is not CSR)

    def install(**changes):
        kernel = replace(reference, name="csr_conv_test", **changes)
        monkeypatch.setattr(sparsekit.kernels, "CONV_KERNELS", (*dense, kernel))
        return reference

    install()
    monkeypatch.setattr(conv_bench, "BUDGET_S", 0.0)
    return install


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_case_gives_a_row_per_sparsity_against_the_fastest_dense_way(sparse_kernel, monkeypatch, dtype):
    timed = {}

    def times_of(calls, budget, before):
        """The sparse kernel needs 1 s on NCHW and 3 s on channels_last at 50 %, the dense ways 4 s and more."""
        warmed = {name: (call.func, call.args) for name, call in before.items()}
        assert warmed == {name: (warming, (call,)) for name, call in calls.items()}, "it finds what it left itself"
        timed.update({name: 4.0 + number for number, name in enumerate(calls)})
        timed.update({f"csr_conv_test{way}": s for way, s in {" 0.5": 1.0, " NHWC 0.5": 3.0}.items()})
        timed.update({f"csr_conv_test{way}": s for way, s in {" 0.9": 5.0, " NHWC 0.9": 0.5}.items()})
        return timed

    monkeypatch.setattr(conv_bench, "fastest", times_of)
    monkeypatch.setattr(conv_bench, "contenders", lambda ways: ways)
    before = torch.get_num_threads()
    half, ninety = conv_bench.run_conv([replace(CASE, dtype=dtype)])
    assert torch.get_num_threads() == before
    assert {"eager", "eager NHWC", "dense_conv_onednn", "dense_conv_onednn NHWC"} <= set(timed)
    assert (half.kernel, half.speedup, half.floor) == ("csr_conv_test", 4.0, 2.0)
    assert (ninety.kernel, ninety.speedup, ninety.floor) == ("csr_conv_test NHWC", 8.0, None)
    assert half.dense_kernel == "eager"
    assert half.kept_flops == 2 * 2 * 16 * 108  # 2 images of 4 x 4 pixels, half of 216 weights
    assert half.dense_flops == 2 * half.kept_flops
    assert half.case == f"3x3 stride 2 4->6 at 7x7 Unstructured(){' bfloat16' * (dtype is torch.bfloat16)} batch 2"
    assert bool(half.share_of_peak) == (dtype is torch.float32)


def test_rows_are_measured_in_truth(sparse_kernel):
    rows = list(conv_bench.run_conv([replace(CASE, pattern=OnePerKernel(), floors={8 / 9: 4.5})]))
    assert len(rows) == 1
    assert rows[0].seconds > 0.0
    assert rows[0].kept_flops * rows[0].seconds == pytest.approx(2 * 2 * 16 * 24)


@pytest.mark.parametrize("wrong", ["no bias", "too small", "off at one pixel", "NaN"])
def test_a_wrong_kernel_is_named_before_it_is_timed(sparse_kernel, wrong):
    reference = sparse_kernel()

    def bind(packed, convolution):
        right = reference.bind(packed, convolution)

        def run(x, bias):
            if wrong == "no bias":
                return right(x, None)
            y = right(x, bias)
            if wrong == "too small":
                return y[:, :, 1:]
            y[1, 5, 3, 3] += torch.nan if wrong == "NaN" else 1e-2
            return y

        return run

    sparse_kernel(bind=bind)
    with pytest.raises(KernelError, match=r"3x3 stride 2 4->6 .*: csr_conv_test: expected"):
        list(conv_bench.run_conv([CASE]))


def test_roundings_are_counted_by_element():
    exact, scale = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 0.0]).double()
    eps = torch.finfo(torch.float32).eps
    expect_exact("it", torch.tensor([1.0 + ERROR_BOUND * eps, 0.0]), exact, scale)
    for wrong in ([1.0 + 2 * ERROR_BOUND * eps, 0.0], [1.0, 1e-30]):
        with pytest.raises(KernelError, match="it: expected errors of at most"):
            expect_exact("it", torch.tensor(wrong), exact, scale)


@pytest.mark.parametrize("case", {c.pattern: c for c in (*CONV_CASES, *QUICK_CONV_CASES)}.values(), ids=str)
def test_every_case_can_be_pruned(case):
    layer = case.layer
    shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    assert case.pattern.refuses(shape) is None
    for sparsity in case.floors:
        assert case.pattern.sparsity(sparsity, shape) == pytest.approx(sparsity)


def test_quick_cases_are_among_the_cases():
    assert {(c.layer, c.pattern) for c in QUICK_CONV_CASES} <= {(c.layer, c.pattern) for c in CONV_CASES}
    assert len(set(map(str, CONV_CASES))) == len(CONV_CASES)
    assert {case.network for case in NETWORK_CASES} == set(NETWORKS)


@pytest.fixture
def tiny(monkeypatch):
    def load(name):
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 4, 3, stride=32), nn.Conv2d(4, 2, 1)
        return nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(2)).eval()

    race = network_bench.Race
    monkeypatch.setattr(network_bench, "load_network", load)
    monkeypatch.setattr(network_bench, "Race", lambda dense, x, budget, inductor: race(dense, x, 0.0))


def test_networks_are_compiled_checked_and_timed(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    cases = (NetworkCase("tiny", Unstructured(), 0.5, 2.5, (1,)), NetworkCase("tiny", Unstructured(), 0.75, None, (1,)))
    rows = list(network_bench.run_networks(cases))
    assert [(row.sparsity, row.floor, row.threads, row.kernel) for row in rows] == [
        (0.5, 2.5, 1, "compile"),
        (0.75, None, 1, "compile"),
    ]
    assert all(row.seconds > 0.0 for row in rows)
    assert rows[0].case == "tiny Unstructured(), 1 image of 224 px, compiled"
    assert json.dumps(Results(tuple(rows)).as_json())
    console = Console(file=io.StringIO(), width=200)
    for table in Results(tuple(rows)).tables():
        console.print(table)
    assert "2.5x" in console.file.getvalue()


def test_a_network_is_pruned_before_and_checked_after_it_is_compiled(tiny, monkeypatch):
    given = []

    def compile_wrong(model, x):
        given.append(model)
        return nn.Sequential(model, nn.Hardtanh(-1e-3, 1e-3))

    monkeypatch.setattr(network_bench, "compile_model", compile_wrong)
    with pytest.raises(KernelError, match="compiled tiny: expected outputs within"):
        list(network_bench.run_networks([NetworkCase("tiny", Unstructured(), 0.5, None, (1,))]))
    first, second = (module.weight for module in given[0].modules() if isinstance(module, nn.Conv2d))
    assert (torch.count_nonzero(first), torch.count_nonzero(second)) == (108, 4)


def test_a_network_that_computes_something_else_is_refused():
    right = nn.Conv2d(1, 1, 1)
    with pytest.raises(KernelError, match="compiled it: expected outputs within"):
        network_bench.expect_close("it", nn.Sequential(right, nn.Hardtanh()), right, 100 * torch.ones(1, 1, 2, 2))
    network_bench.expect_close("it", right, right, torch.ones(1, 1, 2, 2))
