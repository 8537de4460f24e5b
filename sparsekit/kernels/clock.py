"""The clock of a CUDA device."""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor

from sparsekit.kernels.gpu import gpu_of
from sparsekit.kernels.timing import HOST, Call, Clock

_WARM_UPS = 3
_CACHES = 4
"""A second-level cache keeps some of what was read before until several times its size was read since."""


@cache
def clock_of(device: torch.device, graphs: bool = True) -> Clock:
    """Return the clock of ``device``; ``graphs`` as in :class:`CudaClock`."""
    return CudaClock(device, graphs) if device.type == "cuda" else HOST


class CudaClock(Clock):
    """The time between two events on the current stream of a GPU, what is called captured into a CUDA graph.

    A graph leaves out what the CPU needs to start the work, which it has time for in a model that is captured as a
    whole. What cannot be captured, since it waits for the GPU, is called as it is.

    Args:
        device: the GPU.
        graphs: whether to capture; else the time is what the GPU sees of a call as Python makes it.
    """

    def __init__(self, device: torch.device, graphs: bool = True) -> None:
        self._device = device
        self._graphs = graphs
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.evicted = gpu_of(device).cache_bytes

    def ready(self, call: Call) -> Call:
        """See :class:`Clock`: what kernels compile or look up in their first calls they do here."""
        with torch.cuda.device(self._device):
            for _ in range(_WARM_UPS):
                call()
            torch.cuda.synchronize()
            captured = None if not self._graphs or _waits(call) else _captured(call, self._side)
            if captured is None:
                return call
            captured.replay()
            torch.cuda.synchronize()
        return partial(_replay, captured, call)

    def seconds(self, call: Call, repeats: int) -> float:
        """See :class:`Clock`."""
        with torch.cuda.device(self._device):
            self._start.record()
            for _ in range(repeats):
                call()
            self._end.record()
            self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) * 1e-3 / repeats

    def eviction(self, size: int, x: Tensor) -> Call | None:
        """See :class:`Clock`: what fills half of the second-level cache is taken to push out all of it.

        It is read, not written: what is written would go to memory while the next call is timed.
        """
        if size == 0:
            return None
        size = _CACHES * self.evicted if 2 * size >= self.evicted else size
        buffer = torch.ones(size // 4, dtype=torch.float32, device=self._device)
        return lambda: (buffer.sum(), x.sum())


def _waits(call: Call) -> bool:
    """Whether ``call`` waits for the GPU, as far as torch knows; to find that out by capturing would cost a capture."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that not every way to wait is known
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError:
            return True
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return False


def _replay(graph: torch.cuda.CUDAGraph, call: Call) -> None:
    """Replay ``graph``, which reads by address what ``call`` holds: it has to live as long."""
    graph.replay()


_BROKEN: list[torch.cuda.CUDAGraph] = []
"""Captures that failed: torch's allocator may still ask them whether a stream is theirs."""


def _captured(call: Call, side: torch.cuda.Stream) -> torch.cuda.CUDAGraph | None:
    """Return ``call`` as a graph, captured on the stream ``side``, or None where it cannot be."""
    graph = torch.cuda.CUDAGraph()
    try:
        _capture(call, graph, side)
    except Exception:  # whatever a kernel says that must not run here; called as it is, it says so again
        _BROKEN.append(graph)
        torch.cuda.synchronize()
        # torch's random generator stays in its capturing state after a capture that failed, until one succeeds
        with warnings.catch_warnings(), suppress(RuntimeError):
            warnings.simplefilter("ignore")  # that nothing was captured
            _capture(lambda: None, torch.cuda.CUDAGraph(), side)
        return None
    return graph


def _capture(call: Call, graph: torch.cuda.CUDAGraph, side: torch.cuda.Stream) -> None:
    # not by torch.cuda.graph, which leaves the stream as the current one where the capture fails
    with torch.cuda.stream(side):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            call()
        finally:
            graph.capture_end()
