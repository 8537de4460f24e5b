"""What every kernel for GPUs refuses before anything is launched, and what it is spared."""

from dataclasses import replace

import pytest
import torch

from sparsekit.errors import InputError
from sparsekit.formats import BlockCSR
from sparsekit.kernels import CONV_KERNELS, GRADIENT_KERNELS, KERNELS, Convolution, ConvProblem, Problem, gpu
from sparsekit.kernels.base import PackedProblem
from sparsekit.kernels.cuda import extension
from sparsekit.kernels.gpu import H100, Gpu
from sparsekit.mask import Mask
from sparsekit.nn import SparseLinear
from sparsekit.patterns import NM, Block, PerTap, Unstructured
from tests.weights import random_mask, random_weight

PATTERNS = (Unstructured(), NM(2, 4), Block(16, 16))
FOR_GPUS = [k for k in (*KERNELS, *GRADIENT_KERNELS, *CONV_KERNELS) if k.name.rsplit("_", 1)[1] in gpu.BACKENDS]


def problem_for(kernel, batch=4):
    if kernel in CONV_KERNELS:
        weight = random_weight((32, 32, 3, 3), torch.bfloat16)
        mask = Mask(PerTap(Block(16, 16)).select(weight.float().abs(), 0.5), PerTap(Block(16, 16)))
        return ConvProblem(kernel.format.pack(weight, mask), Convolution(32, (3, 3)), (batch, 8, 8))
    mask = next(
        mask for pattern in PATTERNS if kernel.format.accepts(mask := random_mask((32, 32), pattern, 0.5)) is None
    )
    # the kernel of many tokens refuses few
    batch = 128 * batch if kernel.name == "nm_mm_cuda" else batch
    return Problem(kernel.format.pack(random_weight((32, 32), torch.bfloat16), mask), batch)


@pytest.fixture
def on(monkeypatch):
    """Tell kernels that the weight is on such a GPU, and that all they need is there."""

    def of(found: Gpu) -> None:
        monkeypatch.setattr(gpu, "gpu_of", lambda device: found)
        monkeypatch.setattr(PackedProblem, "device", property(lambda self: torch.device("cuda", 0)))
        mma = type("mma", (), {"shared_bytes": staticmethod(lambda tokens: 81920)})
        monkeypatch.setattr(extension, "MODULE", type("Module", (), {"architectures": "80,90a", "mma": mma}))
        monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)

    return of


@pytest.mark.parametrize("kernel", FOR_GPUS, ids=lambda k: k.name)
def test_a_gpu_of_today_is_not_refused(kernel, on):
    on(H100)
    assert kernel.refuses(problem_for(kernel)) is None


@pytest.mark.parametrize("kernel", FOR_GPUS, ids=lambda k: k.name)
def test_an_old_gpu_is_refused(kernel, on):
    on(Gpu("an old one", (7, 5), 40, 65536, 4 << 20))
    expected = "it needs a GPU of compute capability 8.0 or newer, and an old one has 7.5"
    assert str(kernel.refuses(problem_for(kernel))) == expected


@pytest.mark.parametrize("kernel", FOR_GPUS, ids=lambda k: k.name)
def test_no_batch_is_refused(kernel, on):
    on(H100)
    assert str(kernel.refuses(problem_for(kernel, batch=0))) == "it needs a weight and a batch that are not empty"


def beside(part):
    """The same numbers, one element away from the beginning of their memory."""
    moved = torch.empty(part.numel() + 1, dtype=part.dtype)[1:].view(part.shape)
    return moved.copy_(part)


def apart(part):
    """The same numbers, not end to end."""
    return torch.stack((part, part), dim=-1)[..., 0]


@pytest.mark.parametrize("kernel", FOR_GPUS, ids=lambda k: k.name)
@pytest.mark.parametrize("laid", [beside, apart])
def test_parts_that_lie_otherwise_are_refused(kernel, laid, on):
    on(H100)
    problem = problem_for(kernel)
    filled = {name: part for name, part in problem.packed.tensors().items() if part.numel()}
    for name, part in filled.items():
        assert kernel.refuses(replace(problem, packed=replace(problem.packed, **{name: part.clone()}))) is None
        lying = replace(problem, packed=replace(problem.packed, **{name: laid(part)}))
        assert str(kernel.refuses(lying)) == (
            "it reads parts that lie end to end from a multiple of 16 bytes on, as those of a clone do, and "
            f"{name} does not"
        )


@pytest.mark.parametrize("kernel", FOR_GPUS, ids=lambda k: k.name)
def test_places_beyond_32_bits_are_refused(kernel, on):
    on(H100)
    assert kernel.refuses(problem_for(kernel, batch=2**31)) is not None


@pytest.mark.parametrize("kernel", FOR_GPUS, ids=lambda k: k.name)
def test_the_cpu_is_refused(kernel):
    said = str(kernel.refuses(problem_for(kernel)))
    assert said in ("it runs on CUDA devices, not on cpu", "this torch has no cuSPARSELt", extension.WHY_NOT)


def test_an_input_on_another_device_is_one_clear_error():
    mask = random_mask((32, 32), Block(16, 16), 0.5)
    layer = SparseLinear(BlockCSR.pack(random_weight((32, 32)), mask))
    with pytest.raises(InputError, match="expected input on cpu, got it on meta"):
        layer(torch.empty(2, 32, device="meta"))
