"""What a GPU is to a kernel: what has to be known of it before a launch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from sparsekit.formats.base import Format, Refusal
from sparsekit.kernels.base import PackedProblem

OLDEST = (8, 0)
"""The oldest compute capability that the kernels are written for."""

HALVES = (torch.bfloat16, torch.float16)
"""What the tensor cores multiply exactly."""

DEVICES = ("cuda",)
"""Types of devices on which Triton's kernels run. The tests add the CPU, where the interpreter runs them."""

BACKENDS = ("triton", "cuda", "cusparselt")
"""The last words of the names of kernels for GPUs."""

ALIGNED_BYTES = 16
"""What one load of a lane takes, at most, from a multiple of as many bytes on."""

MOST_BATCH = 2**31 - 2**10
"""Tokens or images, at most: a tile may reach beyond the last one."""

MOST_ELEMENTS = 2**31
"""A tensor of so many elements or more has places that 32 bits do not reach."""


@dataclass(frozen=True)
class Gpu:
    """One model of GPU.

    Args:
        name: as the driver knows it.
        capability: compute capability, (major, minor).
        multiprocessors: how many there are.
        shared_bytes: shared memory that one block of threads can have.
        cache_bytes: of the second-level cache.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int
    cache_bytes: int

    @property
    def capability_text(self) -> str:
        """The compute capability as people write it: ``9.0``."""
        return dotted(self.capability)


H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 50 << 20)
"""What an interpreter on the CPU stands in for."""


def dotted(capability: tuple[int, int]) -> str:
    """Write a compute capability as people do."""
    return ".".join(map(str, capability))


@cache
def gpu_of(device: torch.device) -> Gpu:
    """Return the GPU at ``device``; a CPU, where only an interpreter runs a GPU's code, stands in for an H100."""
    if device.type != "cuda":
        return H100
    found = torch.cuda.get_device_properties(device)
    return Gpu(
        found.name,
        (found.major, found.minor),
        found.multi_processor_count,
        getattr(found, "shared_memory_per_block_optin", H100.shared_bytes),
        getattr(found, "L2_cache_size", H100.cache_bytes),
    )


def refuses_gpu(
    problem: PackedProblem, dtypes: tuple[torch.dtype, ...], devices: tuple[str, ...] = ("cuda",)
) -> Refusal | None:
    """Return why no kernel for GPUs runs ``problem``, or None.

    Args:
        problem: what is to be computed.
        dtypes: what the kernel runs.
        devices: types of devices on which the kernel runs.
    """
    if problem.device.type not in devices:
        return Refusal(f"it runs on CUDA devices, not on {problem.device}")
    if torch.version.hip is not None:
        return Refusal("it runs on NVIDIA GPUs, and this torch is built for AMD's")
    gpu = gpu_of(problem.device)
    if gpu.capability < OLDEST:
        want = dotted(OLDEST)
        return Refusal(
            f"it needs a GPU of compute capability {want} or newer, and {gpu.name} has {gpu.capability_text}"
        )
    if problem.dtype not in dtypes:
        runs, asked = (", ".join(str(d).removeprefix("torch.") for d in of) for of in (dtypes, (problem.dtype,)))
        return Refusal(f"it runs {runs}, not {asked}")
    return _refuses_batch(problem) or _refuses_parts(problem.packed)


def _refuses_batch(problem: PackedProblem) -> Refusal | None:
    batch = problem.key[0] if isinstance(problem.key, tuple) else problem.key
    assert isinstance(batch, int)
    if not problem.packed.rows or not problem.packed.columns or not batch:
        return Refusal("it needs a weight and a batch that are not empty")
    return Refusal(f"it counts in 32 bits, and {batch} are too many at once") if batch > MOST_BATCH else None


def _refuses_parts(packed: Format) -> Refusal | None:
    for name, part in packed.tensors().items():
        if not part.is_contiguous() or part.data_ptr() % ALIGNED_BYTES:
            lie = f"lie end to end from a multiple of {ALIGNED_BYTES} bytes on"
            return Refusal(f"it reads parts that {lie}, as those of a clone do, and {name} does not")
    return None


def runs_elsewhere(kernel: str, device: torch.device) -> bool:
    """Whether the kernel of this name is for GPUs and ``device`` is none: known before a weight is packed for it."""
    return kernel.rsplit("_", 1)[1] in BACKENDS and device.type not in DEVICES


def refuses_sizes(**elements: int) -> Refusal | None:
    """Return a refusal where one of the tensors, given with its number of elements, has places beyond 32 bits."""
    for name, count in elements.items():
        if count >= MOST_ELEMENTS:
            return Refusal(f"it counts places in 32 bits, and {name} has {count} elements, not fewer than 2**31")
    return None
