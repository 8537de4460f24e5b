"""What a plan says of other dtypes."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.mask import read_mask
from sparsekit.planning import dtypes, plan
from sparsekit.planning.dtypes import OtherDtype
from sparsekit.planning.jobs import AS_IS, LinearJob


@pytest.fixture
def looked(monkeypatch, measured):
    """Made-up times in bfloat16, by kernel name; keeps the jobs that were looked at."""
    times, jobs = {"dense_linear_reference": 8.0, "dense_linear_onednn": 5.0, "csr_mm_native": 2.0}, []

    def look(job):
        jobs.append(job)
        if AS_IS in job.calls(job.example()):
            return {AS_IS: 6.0, "dense_conv_onednn": 5.0}
        return {name: t for name, t in times.items() if job.mask.sparsity or name.startswith("dense")}

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(dtypes, "look", look)
    monkeypatch.setattr("sparsekit.planning.planner.other_dtypes", dtypes.other_dtypes)
    return times, jobs


def model_of(*zeros, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in zeros))
    for at, sparsity in enumerate(zeros):
        if sparsity:
            sk.prune(model, sk.Magnitude(), sparsity=sparsity, layers=[str(at)])
    return model.to(dtype)


def test_it_says_in_one_sentence_what_bfloat16_would_take(looked):
    made = plan(model_of(0.9, 0.0), torch.randn(6, 20))
    (other,) = made.others
    assert other == OtherDtype("bfloat16", dense=10.0, sparse=7.0, planned=3.0 + 10.0)
    sentence = (
        "In bfloat16 the dense layers would take 10000000 us and the sparse ones 7000000 us, "
        "against 13000000 us as planned."
    )
    assert sentence in " ".join(str(made).split())
    found = json.loads(json.dumps(made.as_json()))["other_dtypes"]
    assert [(one["dtype"], one["sentence"], one["sparse_us"]) for one in found] == [("bfloat16", sentence, 7e6)]


def test_without_sparse_kernels_it_names_the_dense_ones_only(looked):
    del looked[0]["csr_mm_native"]
    (other,) = plan(model_of(0.0, 0.0), torch.randn(6, 20)).others
    assert str(other) == "In bfloat16 the dense layers would take 10000000 us, against 20000000 us as planned."


@pytest.mark.parametrize(("planned", "said"), [(5.4, False), (5.6, True)])
def test_less_than_a_tenth_is_not_worth_a_sentence(looked, measured, planned, said):
    measured[0].update({"dense_linear_reference": planned, "dense_linear_onednn": planned})
    made = plan(model_of(0.0), torch.randn(6, 20))
    assert bool(made.others) is said
    assert ("bfloat16" in str(made)) is said


def test_layers_of_one_shape_have_one_representative_of_median_sparsity_and_are_looked_at_once(looked):
    model, x = model_of(0.5, 0.95, 0.8, 0.0, 0.0), torch.randn(6, 20)
    first = plan(model, x)
    assert sorted(round(job.mask.sparsity, 2) for job in looked[1]) == [0.0, 0.8]
    assert {job.weight.dtype for job in looked[1]} == {job.bias.dtype for job in looked[1]} == {torch.bfloat16}
    assert plan(model, x).others == first.others
    assert len(looked[1]) == 2  # the second plan has it from the disk


def test_convolutions_and_what_is_fused_with_them_are_looked_at_too(looked):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    made = plan(model, torch.randn(1, 4, 9, 9))
    (job,) = looked[1]
    assert [next(iter(layer.state_dict().values())).dtype for layer in job.dense[:2]] == [torch.bfloat16] * 2
    assert made.model[0].weight.dtype == made.model[1].running_mean.dtype == torch.float32
    assert job.calls(job.example())[AS_IS]().dtype == torch.bfloat16
    assert [other.dense for other in made.others] == [5.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_in_other_dtypes_are_left_alone(looked, dtype):
    assert not plan(model_of(0.9, dtype=dtype), torch.randn(6, 20, dtype=dtype)).others
    assert not looked[1]


def test_half_precision_is_looked_at(looked):
    assert plan(model_of(0.0, dtype=torch.float16), torch.randn(6, 20).half()).others


def test_processors_without_bfloat16_are_spared(looked, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not plan(model_of(0.9), torch.randn(6, 20)).others
    assert not looked[1]


def test_models_without_measured_layers_are_none(looked):
    assert not plan(nn.Sequential(nn.ReLU()), torch.randn(3, 4)).others


def test_the_times_are_taken_by_few_rounds_of_every_way():
    weight = nn.Linear(20, 12).weight.detach().bfloat16()
    times = dtypes.look(LinearJob(weight, read_mask(weight), None, 0, 6))
    assert "dense_linear_reference" in times
    assert all(seconds > 0 for seconds in times.values())
