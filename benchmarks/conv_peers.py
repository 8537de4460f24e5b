"""The convolutions of ``sparsekit bench conv`` on other libraries: ``python benchmarks/conv_peers.py``.

The layers at one image, fp32, with the masks of the 90 % rows. Other libraries run the layer dense, as that is all they
do; in the same interleaved rounds are the fastest dense way of torch and every sparse kernel. ``pip install .[bench]``
installs the others; one that is missing is reported with the reason, and so is one that gives a wrong result.

XNNPACK has sparse 1x1 convolutions. On x86 it turns them off where there is AVX (``xnn_is_chw_compatible_config``): a
model with sparse weights then gives the dense model's result bit for bit, in the same time.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsekit.bench.conv import ConvBench
from sparsekit.bench.problems import CONV_CASES, ConvCase, ConvLayer
from sparsekit.bench.rounding import expect_exact
from sparsekit.errors import KernelError
from sparsekit.kernels.timing import fastest
from sparsekit.planning.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "conv"
SHOWN = 0.9
"""The sparsity whose rows are compared; a pattern that fixes its own has the nearest."""

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """One way to compute one layer; ``pattern`` is empty where it is dense."""

    layer: str
    library: str
    way: str
    pattern: str
    sparsity: float
    seconds: float
    speedup: float
    """Over the fastest dense way of torch."""


def onnx_model(conv: nn.Conv2d, x: Tensor) -> bytes:
    """One convolution with bias as an ONNX model; inputs ``x``, outputs ``y``."""
    from onnx import TensorProto, checker, helper, numpy_helper

    down, across = conv.padding
    node = helper.make_node(
        "Conv",
        ["x", "weight", "bias"],
        ["y"],
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        pads=[down, across, down, across],
    )
    kept = [numpy_helper.from_array(p.detach().numpy(), name) for name, p in conv.named_parameters()]
    ends = ((["x"], x.shape), (["y"], conv(x).shape))
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n in names] for names, s in ends)
    graph = helper.make_graph([node], "conv", inputs, outputs, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def on_onnxruntime(conv: nn.Conv2d, x: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(conv, x), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def on_openvino(conv: nn.Conv2d, x: Tensor, threads: int) -> Call:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # on newer processors its default is bf16
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(onnx_model(conv, x)), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy(), shared_memory=True))
    request.infer()
    result = torch.from_numpy(request.get_output_tensor().data)

    def run() -> Tensor:
        request.infer()
        return result

    return run


PEERS = {"onnxruntime": on_onnxruntime, "openvino": on_openvino}


def xnnpack() -> str:
    """Why XNNPACK is not among the rows."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return "absent: it takes TensorFlow Lite models, and none is made here"
    return "absent: it turns its sparse convolutions off on x86 with AVX"


def cases() -> dict[ConvLayer, list[ConvCase]]:
    """The fp32 cases of one image by layer, each with the sparsity that is shown."""
    found: dict[ConvLayer, list[ConvCase]] = {}
    for case in CONV_CASES:
        if case.batch == 1 and case.dtype is torch.float32:
            sparsity = min(case.floors, key=lambda s: abs(s - SHOWN))
            found.setdefault(case.layer, []).append(replace(case, floors={sparsity: case.floors[sparsity]}))
    return found


def compare(given: list[ConvCase], threads: int, budget: float, peers: dict[str, str]) -> list[Row]:
    """Time all ways of one layer in the same rounds; what keeps a peer from running is written to ``peers``."""
    benches = [ConvBench(case) for case in given]
    first, layer = benches[0], str(given[0].layer)
    exact, scale = first.pruned[0.0].exact, first.pruned[0.0].scale
    calls: dict[tuple[str, str, str, float], Call] = {}
    for way, call in first.dense_calls().items():
        calls["torch", way, "", 0.0] = call
    for library, make in PEERS.items():
        try:
            call = make(first.conv, first.images[""], threads)
            expect_exact(f"{layer}: {library}", call(), exact, scale)
        except (ImportError, RuntimeError, KernelError) as error:
            peers[library] = f"absent: {' '.join(str(error).split())[:200]}"
            continue
        calls[library, "dense", "", 0.0] = call
    for bench in benches:
        for (kernel, sparsity), (call, _) in bench.sparse_calls().items():
            calls["sparsekit", kernel, str(bench.case.pattern), sparsity] = call
    with torch.no_grad():
        times = fastest({str(key): call for key, call in calls.items()}, budget)
    dense = min(times[str(key)] for key in calls if key[0] == "torch")
    return [Row(layer, *key, seconds=times[str(key)], speedup=dense / times[str(key)]) for key in calls]


def versions() -> dict[str, str]:
    """The versions of the libraries that are compared, or why there is none."""
    found = {"torch": torch.__version__, "xnnpack": xnnpack()}
    for library in PEERS:
        try:
            found[library] = version(library)
        except ImportError as error:
            found[library] = f"absent: {error}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "peers.json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="spent on each layer")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peers, rows = versions(), []
    for layer, given in cases().items():
        found = compare(given, options.threads, options.seconds, peers)
        print(layer)
        for row in sorted(found, key=lambda row: row.seconds):
            what = f"{row.sparsity:.0%} {row.pattern}" if row.pattern else "dense"
            print(f"  {row.seconds * 1e3:8.3f} ms {row.speedup:6.2f}x  {row.library:12} {row.way}, {what}", flush=True)
        rows += found
    for library, state in peers.items():
        print(f"{library}: {state}")
    report = {"machine": describe_machine(), "libraries": peers, "rows": [asdict(row) for row in rows]}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"Saved {options.output}.")


if __name__ == "__main__":
    main()
