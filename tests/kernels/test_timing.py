from __future__ import annotations

import itertools

from sparsekit.kernels import timing
from sparsekit.kernels.timing import fastest


def test_orders_by_median_and_interleaves(monkeypatch):
    clock = [0.0]
    calls = []
    slow = itertools.chain([9.0, 9.0, 9.0], itertools.repeat(2.0))

    def call(name, cost):
        def run():
            calls.append(name)
            clock[0] += next(cost)

        return run

    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    times = fastest({"slow": call("slow", slow), "quick": call("quick", itertools.repeat(1.0))}, 60.0)
    assert times == {"quick": 1.0, "slow": 2.0}
    assert list(times) == ["quick", "slow"]
    assert calls[:4] == ["slow", "slow", "quick", "quick"]
    assert calls[4:8] == ["slow", "quick", "slow", "quick"]


def test_runs_three_rounds_without_a_budget():
    calls = []
    fastest({"a": lambda: calls.append("a") or sum(range(20_000))}, 0.0)
    assert len(calls) >= 2 + 3


def test_nothing_to_time():
    assert fastest({}, 1.0) == {}


def test_what_comes_before_a_call_is_for_all_or_by_name(monkeypatch):
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}
    fastest(candidates, 0.0, lambda: calls.append("-"))
    assert "".join(calls[-4:]) == "-a-b"
    fastest(candidates, 0.0, {name: lambda name=name: calls.append(name.upper()) for name in "ab"})
    assert "".join(calls[-4:]) == "AaBb"
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 1e9)
    monkeypatch.setattr(timing.math, "ceil", lambda repeats: 2)
    fastest(candidates, 0.0, {"b": lambda: calls.append("B")})
    assert "".join(calls[-4:]) == "aaBb"
