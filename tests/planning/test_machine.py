"""What a measurement is told apart by where GPUs compute."""

from types import ModuleType, SimpleNamespace

import pytest
import torch

from sparsekit.kernels.gpu import H100
from sparsekit.patterns import Unstructured
from sparsekit.planning import jobs, machine
from tests.weights import random_mask, random_weight


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: (H100,))
    monkeypatch.setattr(machine, "driver", lambda: "580.1")
    monkeypatch.setattr(machine, "triton_version", lambda: "3.6.0")


def test_without_a_gpu_nothing_is_said_of_one(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: ())
    assert machine.describe_machine()["gpu"] is None
    found = machine.fingerprint()
    assert (found["gpus"], found["driver"], found["triton"]) == ("", "", "")


def test_the_fingerprint_names_the_gpu_its_driver_and_what_compiles_for_it(one_gpu):
    assert machine.describe_machine()["gpu"] == H100.name
    found = machine.fingerprint()
    assert (found["gpus"], found["driver"]) == (f"{H100.name} 9.0", "580.1")
    assert found["triton"] == f"3.6.0 {machine.programs_stamp()}"


def test_the_stamp_follows_programs_and_tuned_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "triton", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    stamps = []
    for name, text in (("a.py", "1"), ("a.py", "2"), ("tuned.json", "{}")):
        (tmp_path / name).write_text(text)
        machine.programs_stamp.cache_clear()
        stamps.append(machine.programs_stamp())
    machine.programs_stamp.cache_clear()
    assert len(set(stamps)) == 3


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build", "580.159.04"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6", "535.54.03"),
        ("nothing of the kind", "unknown"),
    ],
)
def test_reads_the_version_of_the_driver(monkeypatch, text, version):
    monkeypatch.setattr(machine, "Path", lambda path: SimpleNamespace(read_text=lambda encoding: text))
    machine.driver.cache_clear()
    assert machine.driver() == version
    machine.driver.cache_clear()


def test_a_key_on_a_gpu_names_its_model_and_no_threads(monkeypatch):
    monkeypatch.setattr(jobs, "gpu_of", lambda device: H100)
    assert jobs.place(torch.device("cuda", 0)) == f"device={H100.name} 9.0"
    key = jobs.LinearJob(random_weight((16, 16)), random_mask((16, 16), Unstructured(), 0.5), None, 0, 3).key
    assert f"device=cpu threads={torch.get_num_threads()}" in key


def test_a_build_is_told_from_another_by_its_file(tmp_path):
    module = ModuleType("built")
    assert machine.build_stamp(None) == machine.build_stamp(module) == "none"
    module.__file__ = str(tmp_path / "built.so")
    (tmp_path / "built.so").write_bytes(b"one")
    first = machine.build_stamp(module)
    (tmp_path / "built.so").write_bytes(b"another")
    assert first.startswith("3-")
    assert machine.build_stamp(module).startswith("7-")
