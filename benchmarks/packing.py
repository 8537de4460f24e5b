"""What it takes to pack a layer: ``python benchmarks/packing.py``.

Every step between a pruned dense weight and the first product: the mask read from its zeros or made of a bool tensor,
each format that stores it, what every native kernel derives when it is bound, and ``SparseLinear.from_dense`` as a
whole. Each beside one dense product of that layer at 512 tokens, prepacked, in the weight's dtype; packing may cost
ten of these. Peak memory is what the process held beyond what it held before.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsekit.formats import FORMATS, Format
from sparsekit.kernels import Convolution, ConvProblem, Problem
from sparsekit.kernels.native import NATIVE_CONV_KERNELS, NATIVE_GRADIENT_KERNELS, NATIVE_KERNELS
from sparsekit.mask import Mask, read_mask
from sparsekit.nn import SparseLinear
from sparsekit.patterns import NM, VNM, Block, Pattern, Unstructured
from sparsekit.planning.machine import describe_machine

SIDE, TOKENS = 4096, 512
DTYPES = (torch.float32, torch.bfloat16)
CASES: tuple[tuple[Pattern, float], ...] = (
    *((Unstructured(), s) for s in (0.5, 0.9)),
    *((Block(*sides), s) for sides in ((4, 4), (16, 16), (64, 64), (16, 1), (1, 16)) for s in (0.5, 0.9)),
    (NM(2, 4), 0.5),
    (VNM(16, 2, 8), 0.75),
)
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Row:
    """One step for one weight."""

    step: str
    dtype: str
    pattern: str
    sparsity: float
    seconds: float
    products: float
    """Seconds in dense products at 512 tokens."""
    peak_mb: float | None
    """MB held beyond what was held before; None where the system does not say."""


def peak_kb(name: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name))


def measured(call: Callable[[], object], repeats: int) -> tuple[float, float | None]:
    """The least seconds of some calls, and the MB by which the first one raised the peak."""
    call()
    peak = None
    try:
        CLEAR.write_text("5")
        before = peak_kb("VmRSS")
        call()
        peak = (peak_kb("VmHWM") - before) / 1024
    except OSError:
        pass
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), peak


def dense_seconds(dtype: torch.dtype) -> float:
    """One product at 512 tokens with a weight that oneDNN has laid out for it."""
    x, weight = torch.randn(TOKENS, SIDE, dtype=dtype), torch.randn(SIDE, SIDE, dtype=dtype)
    ready = torch.ops.mkldnn._reorder_linear_weight(weight, TOKENS)
    return measured(lambda: torch.ops.mkldnn._linear_pointwise(x, ready, None, "none", [], ""), 5)[0]


def steps(weight: Tensor, mask: Mask) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every step that ``mask`` allows, by name."""
    linear = nn.Linear(SIDE, SIDE, bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    yield "read the mask", partial(read_mask, weight)
    yield "make the mask", partial(Mask, mask.keep, mask.pattern)
    for family in FORMATS:
        if family.accepts(mask) is None:
            yield f"pack {family.name}", partial(family.pack, weight, mask)
            packed = family.pack(weight, mask)
            yield f"unpack {family.name}", packed.unpack
            yield from binds(packed)
    yield "from_dense", partial(SparseLinear.from_dense, linear)
    yield "from_dense, mask given", partial(SparseLinear.from_dense, linear, mask)


def binds(packed: Format) -> Iterator[tuple[str, Callable[[], object]]]:
    """What each native kernel derives from ``packed``, as it is bound."""
    for kernel in NATIVE_KERNELS:
        if kernel.format is type(packed) and kernel.refuses(Problem(packed, 4)) is None:
            yield f"bind {kernel.name}", partial(kernel.bind, packed)
    for gradients in NATIVE_GRADIENT_KERNELS:
        if gradients.format is type(packed) and gradients.refuses(Problem(packed, 4)) is None:
            yield f"bind {gradients.name}", partial(gradients.bind, packed, {})
    plain = Convolution(SIDE, (1, 1))
    for convolve in NATIVE_CONV_KERNELS:
        if convolve.format is type(packed) and convolve.refuses(ConvProblem(packed, plain, (1, 14, 14))) is None:
            yield f"bind {convolve.name}", partial(convolve.bind, packed, plain)


def rows(repeats: int, only: str) -> Iterator[Row]:
    for dtype in DTYPES:
        product = dense_seconds(dtype)
        short = str(dtype).removeprefix("torch.")
        yield Row("one dense product", short, "", 0.0, product, 1.0, None)
        dense = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
        for pattern, sparsity in CASES:
            if only not in f"{short} {pattern} {sparsity}":
                continue
            keep = pattern.select(dense.abs(), None if pattern.fixes_sparsity else sparsity)
            mask, weight = Mask(keep, pattern), dense * keep
            for step, call in steps(weight, mask):
                seconds, peak = measured(call, repeats)
                yield Row(step, short, str(pattern), sparsity, seconds, seconds / product, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="a JSON file to write the rows to, such as results/packing.json")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each step; the fastest counts")
    parser.add_argument("--only", default="", help="weights whose dtype, pattern and sparsity contain this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    print(f"{'step':34}{'dtype':10}{'pattern':18}{'sparsity':>9}{'seconds':>10}{'products':>10}{'peak MB':>10}")
    for row in rows(options.repeats, options.only):
        found.append(row)
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        size = f"{row.sparsity:9.2f}{row.seconds:10.3f}{row.products:10.2f}{peak:>10}"
        print(f"{row.step:34}{row.dtype:10}{row.pattern:18}{size}", flush=True)
    if options.output:
        machine = describe_machine()
        told = {"side": SIDE, "tokens": TOKENS, "machine": machine, "rows": [asdict(row) for row in found]}
        options.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
