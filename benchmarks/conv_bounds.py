"""What bounds a sparse convolution that is not its multiply-adds: ``python benchmarks/conv_bounds.py``.

For each layer of ``sparsekit bench conv``: the fastest dense way, the native kernel with every weight removed, which
packs the images and stores the bias, and the same with one output, which packs alone. Dense over the first is what no
sparsity can pass; with the multiply-adds of 90 and 95 % zeros at the processor's measured peak, nothing overlapped, it
is what to expect. All in one process, interleaved.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sparsekit.bench.conv import ConvBench
from sparsekit.bench.memory import keep_memory
from sparsekit.bench.problems import CONV_1X1, CONV_3X3, CONV_7X7, ConvCase
from sparsekit.kernels import Convolution, native
from sparsekit.kernels.native.conv import CSR_CONV
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.patterns import Unstructured
from sparsekit.planning.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "conv" / "bounds.json"
ZEROS = (0.9, 0.95)


def emptied(conv: nn.Conv2d, outputs: int, x: torch.Tensor) -> partial:
    """A call of the native kernel for the first ``outputs`` outputs of ``conv``, all their weights removed."""
    weight = conv.weight.detach()[:outputs]
    packed = CSR_CONV.format.pack(weight, Mask(torch.zeros_like(weight, dtype=torch.bool)))
    assert conv.bias is not None
    return partial(CSR_CONV.bind(packed, Convolution.of(conv)), x, conv.bias.detach()[:outputs])


def bound(case: ConvCase, threads: int, seconds: float) -> dict:
    """Time one layer; see the module."""
    torch.set_num_threads(threads)
    bench = ConvBench(case)
    x, conv = bench.images[""], bench.conv
    calls = {"no weights": emptied(conv, conv.out_channels, x), "packing": emptied(conv, 1, x)}
    dense = bench.dense_calls()
    with torch.no_grad():
        times = fastest({**dense, **calls}, seconds)
    best, peak = min(times[name] for name in dense), native.measured_peaks(threads)["flops"]
    pixels = bench.pruned[0.0].exact[:, 0].numel()
    adds = 2.0 * pixels * conv.weight.numel() / peak
    return {
        "layer": str(case.layer),
        "batch": case.batch,
        "threads": threads,
        "dense_us": best * 1e6,
        "packing_us": times["packing"] * 1e6,
        "no_weights_us": times["no weights"] * 1e6,
        "limit": best / times["no weights"],
        **{f"expected at {s:.0%}": best / (times["no weights"] + (1 - s) * adds) for s in ZEROS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="to time one layer for")
    seconds = parser.parse_args().seconds
    keep_memory()
    rows = []
    for layer in (*CONV_3X3, *CONV_1X1, *CONV_7X7):
        for batch in (1, 8):
            for threads in (1, 2):
                rows.append(bound(ConvCase(layer, Unstructured(), {}, batch), threads, seconds))
                print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
