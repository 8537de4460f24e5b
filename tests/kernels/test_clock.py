"""The clock of a GPU, on a stand-in that keeps a diary of what it was asked to do."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from sparsekit.kernels import clock as module
from sparsekit.kernels.clock import CudaClock, clock_of
from sparsekit.kernels.gpu import H100
from sparsekit.kernels.timing import HOST, fastest

DEVICE = torch.device("cuda", 0)


class FakeGpu:
    """Time passes by what is called; events stop it."""

    def __init__(self):
        self.diary, self.now, self.sync_debug, self.capturing = [], 0.0, 0, None
        self.broken, self.failed, self.stream = False, False, "current"

    def work(self, name, milliseconds=1.0, *, waits=False, captures=True):
        def call():
            if waits and self.sync_debug == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            if self.capturing is not None:
                if waits or not captures:
                    self.failed = True
                    raise ValueError("not while capturing")
                self.capturing.work.append((name, milliseconds))
                return
            self.diary.append(name)
            self.now += milliseconds + 10.0  # what Python takes to start it

        return call

    def set_sync_debug_mode(self, mode):
        self.sync_debug = mode

    @contextmanager
    def on_stream(self, side):
        self.stream, before = side, self.stream
        try:
            yield
        finally:
            self.stream = before


class Event:
    def __init__(self, gpu, enable_timing):
        assert enable_timing
        self.gpu = gpu

    def record(self):
        self.at = self.gpu.now
        self.gpu.diary.append("event")

    def synchronize(self):
        self.gpu.diary.append("read")

    def elapsed_time(self, end):
        return end.at - self.at


class Graph:
    def __init__(self, gpu):
        self.gpu, self.work = gpu, []

    def capture_begin(self, capture_error_mode):
        assert self.gpu.stream == "side"
        self.gpu.capturing, self.gpu.broken = self, True  # as torch's random generator is, until a capture succeeds

    def capture_end(self):
        self.gpu.capturing = None
        if self.gpu.failed:
            self.gpu.failed = False
            raise RuntimeError("the capture failed")
        self.gpu.broken = False

    def replay(self):
        for name, milliseconds in self.work:
            self.gpu.diary.append(f"replay {name}")
            self.gpu.now += milliseconds


@contextmanager
def on(device):
    assert device == DEVICE
    yield


@pytest.fixture
def fake(monkeypatch):
    fake = FakeGpu()
    stand_ins = {
        "Event": partial(Event, fake),
        "CUDAGraph": partial(Graph, fake),
        "Stream": lambda device: "side",
        "stream": fake.on_stream,
        "device": on,
        "synchronize": lambda: None,
        "get_sync_debug_mode": lambda: fake.sync_debug,
        "set_sync_debug_mode": fake.set_sync_debug_mode,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(module, "gpu_of", lambda device: H100)
    module.clock_of.cache_clear()
    yield fake
    module.clock_of.cache_clear()


def test_every_device_has_its_clock(fake):
    assert clock_of(torch.device("cpu")) is HOST
    assert isinstance(clock_of(DEVICE), CudaClock)
    assert clock_of(DEVICE) is clock_of(DEVICE)


def test_warms_up_then_captures_and_times_the_replays_by_events(fake):
    clock = clock_of(DEVICE)
    ready = clock.ready(fake.work("a", 3.0))
    assert fake.diary == ["a", "a", "a", "a", "replay a"]  # three times to warm up, once to see whether it waits
    fake.diary.clear()
    assert clock.seconds(ready, 2) == pytest.approx(3e-3)
    assert fake.diary == ["event", "replay a", "replay a", "event", "read"]


@pytest.mark.parametrize("how", [{"waits": True}, {"captures": False}])
def test_what_cannot_be_captured_is_timed_as_it_is(fake, how):
    clock = clock_of(DEVICE)
    ready = clock.ready(fake.work("a", 3.0, **how))
    assert clock.seconds(ready, 1) == pytest.approx(13e-3)
    assert fake.sync_debug == 0
    assert not fake.broken
    assert fake.stream == "current"


def test_whole_models_are_timed_as_they_are_called(fake):
    clock = clock_of(DEVICE, graphs=False)
    assert clock.seconds(clock.ready(fake.work("a", 3.0)), 1) == pytest.approx(13e-3)


def test_the_caches_are_emptied_before_every_measured_call_and_outside_of_the_events(fake):
    times = fastest({"a": fake.work("a", 5.0), "b": fake.work("b", 2.0)}, 0.0, fake.work("evict"), clock_of(DEVICE))
    assert times == {"b": pytest.approx(2e-3), "a": pytest.approx(5e-3)}
    one_round = ["evict", "event", "replay a", "event", "read", "evict", "event", "replay b", "event", "read"]
    assert fake.diary[-30:] == one_round * 3


@pytest.mark.parametrize(
    ("size", "read"), [(1000, 1000), (H100.cache_bytes // 4, H100.cache_bytes // 4), (64 << 20, 4 * H100.cache_bytes)]
)
def test_evicts_all_of_the_cache_by_reading_several_times_its_size(fake, monkeypatch, size, read):
    ones, made = torch.ones, []

    def on_the_cpu(count, dtype, device):
        assert device == DEVICE
        made.append(count * dtype.itemsize)
        return ones(1)

    monkeypatch.setattr(torch, "ones", on_the_cpu)
    x = torch.zeros(2)
    before = clock_of(DEVICE).eviction(size, x)
    before()
    assert made == [read]
    assert clock_of(DEVICE).eviction(0, x) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    clock, x = CudaClock(device), torch.randn(64, 64, device=device)
    stream = torch.cuda.current_stream()

    def multiplies():
        return x @ x

    def waits():
        return x.sum().item()

    def breaks():
        torch.cuda.synchronize()

    assert clock.seconds(clock.ready(multiplies), 3) > 0.0
    assert clock.ready(multiplies) is not multiplies
    assert clock.ready(waits) is waits
    assert clock.ready(breaks) is breaks
    assert clock.ready(multiplies) is not multiplies
    assert torch.cuda.current_stream() == stream
    torch.randn(3, device=device)
    clock.eviction(64 << 20, x)()
    times = fastest({"once": multiplies, "twice": lambda: (x @ x) @ x}, 0.1, clock.eviction(clock.evicted, x), clock)
    assert set(times) == {"once", "twice"}
