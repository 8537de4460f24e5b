"""What the CUDA kernels refuse and how they cut their work: decided without a GPU."""

from __future__ import annotations

import pytest
import torch

from sparsekit.errors import KernelError
from sparsekit.formats import NMPacked
from sparsekit.kernels import KERNELS, Problem, choose, gpu
from sparsekit.kernels.base import PackedProblem
from sparsekit.kernels.cuda import CUDA_KERNELS, cusparselt, extension, nm, tiles
from sparsekit.kernels.cuda.cusparselt import NM_MM_CUSPARSELT
from sparsekit.kernels.cuda.nm import NM_MM_CUDA, NM_MV_CUDA
from sparsekit.kernels.gpu import H100, Gpu
from sparsekit.patterns import NM
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

BUILT = pytest.mark.skipif(extension.MODULE is None, reason=extension.WHY_NOT)
ARCHITECTURES = "80,90a"
TWO_OF_FOUR = NM(2, 4)


def packed_for(
    shape: tuple[int, int] = (32, 48), pattern: NM = TWO_OF_FOUR, dtype: torch.dtype = torch.float16
) -> NMPacked:
    return NMPacked.pack(random_weight(shape, dtype), random_mask(shape, pattern, 0.1))


@pytest.fixture
def on_gpu(monkeypatch):
    """Tell kernels that the weight is on a GPU of a capability, with torch and a build that have all."""

    def of(*capability: int, shared: int = 232448) -> None:
        mma = type("mma", (), {"shared_bytes": staticmethod(lambda tokens: 4 * (18432 + 256 * tokens))})
        module = type("Module", (), {"architectures": ARCHITECTURES, "mma": mma})
        found = Gpu("this GPU", capability, 132, shared, 50 << 20)
        monkeypatch.setattr(gpu, "gpu_of", lambda device: found)
        monkeypatch.setattr(extension, "MODULE", module)
        monkeypatch.setattr(PackedProblem, "device", property(lambda self: torch.device("cuda", 0)))
        monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)

    return of


def refusals(packed: NMPacked, batch: int) -> list[str]:
    return [str(kernel.refuses(Problem(packed, batch)) or "runs") for kernel in CUDA_KERNELS]


@pytest.mark.parametrize(
    ("capability", "batch", "many", "few", "library"),
    [
        ((9, 0), 65, "runs", "runs", "runs"),
        ((9, 0), 64, "it runs batches above 64, not 64", "runs", "runs"),
        ((8, 6), 65, "it needs the wgmma of compute capability 9.0, and this GPU has 8.6", "runs", "runs"),
        ((10, 0), 65, "it needs the wgmma of compute capability 9.0, and this GPU has 10.0", "runs", "runs"),
        (
            *((7, 5), 65, "it needs a GPU of compute capability 8.0 or newer, and this GPU has 7.5"),
            "it needs a GPU of compute capability 8.0 or newer, and this GPU has 7.5",
            "it needs a GPU of compute capability 8.0 or newer, and this GPU has 7.5",
        ),
    ],
)
def test_gpus_that_run_and_those_that_do_not(on_gpu, capability, batch, many, few, library):
    on_gpu(*capability)
    assert refusals(packed_for(), batch) == [many, few, library]


@pytest.mark.parametrize(
    ("packed", "own", "library"),
    [
        (packed_for(pattern=NM(1, 4)), "sparse tensor cores multiply 2 of every 4, not 1 of 4", None),
        (
            packed_for((32, 51)),
            "it fits up to 2 columns that fill no group of 4, not 3",
            "it needs rows and columns in multiples of 16, not 32 x 51",
        ),
        (packed_for((31, 50)), "runs", "it needs rows and columns in multiples of 16, not 31 x 50"),
        (packed_for(dtype=torch.float32), "it runs bfloat16, float16, not float32", None),
        (packed_for((0, 48)), "it needs a weight and a batch that are not empty", None),
        (packed_for((16, 0)), "it needs a weight and a batch that are not empty", None),
    ],
)
def test_weights_that_run_and_those_that_do_not(on_gpu, packed, own, library):
    on_gpu(9, 0)
    assert refusals(packed, 128) == [own, own, library or own]


@pytest.mark.parametrize(("batch", "needed"), [(8, None), (9, 106496), (33, 139264)])
def test_gpus_with_little_shared_memory_run_the_smallest_batches(on_gpu, batch, needed):
    on_gpu(8, 6, shared=101376)
    refusal = NM_MV_CUDA.refuses(Problem(packed_for(), batch))
    said = f"it needs {needed} bytes of shared memory for this batch, and this GPU gives a block 101376"
    assert str(refusal) == (said if needed else "None")


@BUILT
def test_the_module_says_how_much_shared_memory_a_tile_takes():
    assert [extension.MODULE.mma.shared_bytes(tokens) for tokens in (8, 32, 64)] == [81920, 106496, 139264]


def test_no_batch_is_refused(on_gpu):
    on_gpu(9, 0)
    assert refusals(packed_for(), 0) == ["it needs a weight and a batch that are not empty"] * 3


def test_sizes_that_overflow_are_refused():
    assert nm.refuses_size(2**20, 2**20, 2**10) is None
    assert str(nm.refuses_size(16, 2**31, 8)) == f"its sizes are at most {nm.MOST}, not 16 x {2**31} with batch 8"
    assert str(nm.refuses_size(2**24, 16, 2**20)) == f"it runs at most {nm.MOST} tiles, not {2**17} x {2**17}"


@BUILT
def test_the_cpu_is_refused():
    found = refusals(packed_for(), 128)
    assert found[:2] == ["it runs on CUDA devices, not on cpu"] * 2
    assert found[2] in ("it runs on CUDA devices, not on cpu", "this torch has no cuSPARSELt")


def test_without_the_extension_own_kernels_refuse_and_the_rest_works(monkeypatch):
    monkeypatch.setattr(extension, "MODULE", None)
    monkeypatch.setattr(extension, "WHY_NOT", "the extension sparsekit._cuda is not built (told so by a test)")
    packed, x = packed_for(), random_weight((3, 48), torch.float16)
    for kernel in (NM_MM_CUDA, NM_MV_CUDA):
        assert str(kernel.refuses(Problem(packed, 3))) == extension.WHY_NOT
    assert_product(choose(Problem(packed, 3), KERNELS).bind(packed)(x, None), x, packed.unpack())


def test_the_reason_is_what_the_import_said(monkeypatch):
    def fail(name):
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr(extension.importlib, "import_module", fail)
    assert extension.load() == (None, "the extension sparsekit._cuda is not built (sparsekit._cuda: undefined symbol)")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("80,90a", (8, 0), True),
        ("80,90a", (8, 9), True),
        ("80", (9, 0), True),
        ("90a", (9, 0), True),
        ("90a", (10, 0), False),
        ("86", (8, 0), False),
        ("100f", (10, 0), True),
    ],
)
def test_a_build_serves_its_own_gpu_and_where_portable_newer_ones(architectures, capability, runs):
    found = Gpu("this GPU", capability, 132, 232448, 50 << 20)
    assert (extension.refuses_capability(found, architectures) is None) == runs


def test_a_build_without_90a_has_no_wgmma():
    assert extension.refuses_other_than_hopper(H100, "80,90a") is None
    assert str(extension.refuses_other_than_hopper(H100, "80")) == "this build is for 80, without 90a"


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        ((4096, 4096, 1, 132), tiles.Tile(8, 4)),
        ((4096, 4096, 9, 132), tiles.Tile(32, 4)),
        ((4096, 4096, 64, 132), tiles.Tile(64, 4)),
        ((128, 512, 8, 132), tiles.Tile(8, 1)),
        ((128, 16384, 8, 132), tiles.Tile(8, 32)),
        ((32768, 4096, 8, 132), tiles.Tile(8, 1)),
        ((11008, 4096, 8, 132), tiles.Tile(8, 3)),
        ((4096, 4096, 4096, 132), tiles.Tile(64, 1)),
    ],
)
def test_tiles_of_few_tokens(sizes, tile):
    assert tiles.few_tokens(*sizes) == tile


@pytest.mark.parametrize(
    ("sizes", "tile"),
    [
        ((4096, 4096, 128, 132), tiles.Tile(128, 4)),
        ((4096, 4096, 256, 132), tiles.Tile(128, 2)),
        ((4096, 4096, 8192, 132), tiles.Tile(256, 1)),
        ((4096, 4096, 8192, 108), tiles.Tile(256, 1)),
        ((8448, 4096, 256, 132), tiles.Tile(128, 1)),
        ((16, 64, 65, 132), tiles.Tile(128, 1)),
    ],
)
def test_tiles_of_many_tokens(sizes, tile):
    assert tiles.many_tokens(*sizes) == tile


@pytest.mark.parametrize("choose_tile", [tiles.few_tokens, tiles.many_tokens])
@pytest.mark.parametrize("multiprocessors", [1, 108, 132])
def test_no_part_of_the_columns_is_empty(choose_tile, multiprocessors):
    for rows, columns in ((1, 1), (128, 100), (5000, 260), (300, 100000)):
        for batch in (1, 8, 65, 1000):
            tile = choose_tile(rows, columns, batch, multiprocessors)
            assert 1 <= tile.splits <= -(-columns // 128)


@pytest.mark.parametrize(
    ("x", "copied"),
    [
        (torch.randn(4, 16), False),
        (torch.randn(4, 32)[:, 8:24], False),
        (torch.randn(4, 16)[:, ::2], True),
        (torch.randn(4, 13), True),
        (torch.randn(4, 24)[:, 3:16], True),
        (torch.randn(1, 16).expand(4, 16), True),
        (torch.randn(16, 4).T, True),
    ],
)
def test_tokens_are_copied_only_where_the_kernels_cannot_read_them(x, copied):
    x = x if copied else x.half()  # half keeps the strides of what is dense or sliced here
    x = torch.as_strided(torch.randn(600).half(), x.shape, x.stride(), x.storage_offset())
    found = extension.readable(x)
    assert (found.data_ptr() != x.data_ptr()) == copied
    assert torch.equal(found, x)
    assert found.stride(1) == 1
    assert found.stride(0) % 8 == 0
    assert found.stride(0) >= x.shape[1]
    assert found.data_ptr() % 16 == 0


@pytest.mark.parametrize("kernel", [NM_MM_CUDA, NM_MV_CUDA], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("with_bias", [True, False])
def test_what_the_native_multiply_is_told(monkeypatch, kernel, with_bias):
    weights, calls = [], []

    class NmWeight:
        def __init__(self, *parts):
            weights.append(parts)

        mma = wgmma = None

    monkeypatch.setattr(extension, "MODULE", type("Module", (), {"NmWeight": NmWeight}))
    monkeypatch.setattr(extension, "call", lambda native, device, *told: calls.append(told))
    packed, bias = packed_for((256, 4098)), random_weight((512,), torch.float16)[::2] if with_bias else None
    y = kernel.bind(packed)(random_weight((70, 4098), torch.float16), bias)
    assert weights[0][1:] == (256, 4098, False)
    (x_at, batch, stride, bias_at, y_at, tokens, splits, partial_at, multiprocessors) = calls[0]
    assert x_at % 16 == 0
    assert (batch, stride, multiprocessors) == (70, 4104, 132)
    assert (bias_at != 0) == with_bias
    assert y_at == y.data_ptr()
    assert y.shape == (70, 256)
    choose_tile = tiles.many_tokens if kernel is NM_MM_CUDA else tiles.few_tokens
    assert tiles.Tile(tokens, splits) == choose_tile(256, 4098, 70, 132)
    assert splits > 1
    assert partial_at != 0


def test_what_cuda_answers_becomes_a_kernel_error(monkeypatch):
    def fail(*told):
        raise RuntimeError("launching: cudaErrorInvalidValue, invalid argument")

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 7}))
    with pytest.raises(KernelError, match="launching: cudaErrorInvalidValue, invalid argument"):
        extension.call(fail, torch.device("cuda", 0))
    told = []
    extension.call(lambda *arguments: told.append(arguments), torch.device("cuda", 0), 1, 2)
    assert told == [(1, 2, 7)]


@BUILT
def test_without_a_driver_the_error_is_in_words():
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    packed = packed_for()
    weight = extension.MODULE.NmWeight(0, packed.rows, packed.columns, False)
    for native, tokens in (("mma", 8), ("wgmma", 128)):
        if not hasattr(weight, native):
            continue  # a build without 90a
        with pytest.raises(RuntimeError, match=r": cudaError\w+, "):
            getattr(weight, native)(0, 1, 48, 0, 0, tokens, 1, 0, 132, 0)


@pytest.mark.parametrize("batch", [8, 11])
def test_cusparselt_is_called_as_torch_calls_it(monkeypatch, batch):
    """What torch compresses and multiplies is stood in for by the dense weight; results are transposed if asked."""

    def multiply(compressed, dense, bias, transpose_result):
        assert dense.shape[1] % cusparselt.BATCH_STEP == 0
        assert transpose_result
        return (compressed @ dense).T + bias

    monkeypatch.setattr(torch, "_cslt_compress", lambda weight: weight)
    monkeypatch.setattr(torch, "_cslt_sparse_mm", multiply)
    packed, bias = packed_for(), random_weight((32,), torch.float16)
    x = random_weight((batch, 48), torch.float16)
    assert_product(NM_MM_CUSPARSELT.bind(packed)(x, bias), x, packed.unpack(), bias)
