"""Processes that hang or die: what they did is kept, what they were at is left out, and the run goes on."""

import pytest

from sparsekit.bench.gpu import watch as module
from sparsekit.bench.gpu.log import Log
from sparsekit.bench.gpu.watch import Watch
from sparsekit.bench.gpu.worker import Unit


class Process:
    """Does what it is told to at each look, and ends when there is nothing more."""

    def __init__(self, steps, status=0):
        self.steps, self.status, self.killed = list(steps), status, False

    def poll(self):
        if self.killed or not self.steps:
            return self.status
        step = self.steps[0]
        if step == "hang":
            return None
        self.steps.pop(0)()
        return None

    def kill(self):
        self.killed = True

    def wait(self, timeout):
        assert self.killed

    @property
    def returncode(self):
        return self.status


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]

    class Time:
        @staticmethod
        def time():
            return now[0]

        @staticmethod
        def sleep(seconds):
            now[0] += seconds

    monkeypatch.setattr(module, "time", Time)
    return now


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log.jsonl")


def run(log, processes, minutes=1000.0):
    """Watch processes, each a function of the log and the first unit's number; returns what was told."""
    told, started, pending = [], [], iter(processes)

    def start(first):
        started.append(first)
        return next(pending)

    units = [Unit(name, lambda session: None, 100.0) for name in ("zero", "one", "two")]
    Watch(units, log, start, 1000.0 + 60 * minutes, lambda: None, told.append).run()
    return started, told


def test_one_process_that_does_everything(clock, log):
    steps = [lambda n=n: log.add("done", unit=n) for n in range(3)]
    assert run(log, [Process(steps)]) == ([0], [])


def test_what_ends_the_process_is_left_out_and_its_unit_done_again(clock, log):
    dies = Process([lambda: log.add("done", unit=0), lambda: log.add("start", unit=1, part="bad_kernel")], -11)
    goes_on = Process([lambda n=n: log.add("done", unit=n) for n in (1, 2)])
    started, told = run(log, [dies, goes_on])
    assert started == [0, 1]
    assert log.failed() == {"bad_kernel": "ended the process with status -11 in one"}
    assert told == ["bad_kernel ended the process with status -11"]


def test_what_hangs_is_killed(clock, log):
    hangs = Process([lambda: log.add("start", unit=0, part="endless"), "hang"])
    goes_on = Process([lambda n=n: log.add("done", unit=n) for n in range(3)])
    assert run(log, [hangs, goes_on])[0] == [0, 0]
    assert hangs.killed
    assert log.failed() == {"endless": "hung in zero"}


@pytest.mark.parametrize("part", ["timing", "zero"])
def test_a_unit_that_ends_the_process_by_itself_is_skipped(clock, log, part):
    dies = Process([lambda: log.add("start", unit=0, part=part)], 1)
    goes_on = Process([lambda n=n: log.add("done", unit=n) for n in (1, 2)])
    assert run(log, [dies, goes_on])[0] == [0, 1]
    assert log.failed() == {}
    assert log.records("skipped")[0]["reason"] == f"{part} ended the process with status 1"


def test_a_process_that_never_gets_to_a_unit_is_no_endless_loop(clock, log):
    assert run(log, [Process([], 1) for _ in range(3)])[0] == [0, 1, 2]


def test_nobody_is_blamed_for_the_time_being_over(clock, log):
    late = Process([lambda: log.add("start", unit=0, part="kernel"), "hang"])
    run(log, [late], minutes=0.01)
    assert log.failed() == {}
    assert "when the time was over" in log.records("skipped")[0]["reason"]


def test_a_line_that_was_cut_off_is_passed_over(log):
    log.add("done", unit=0)
    with log.path.open("a") as file:
        file.write('{"kind": "do')
    assert [record["unit"] for record in log.records()] == [0]
