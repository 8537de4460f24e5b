import copy

import pytest
import torch

from sparsekit.demo.minilm.distill import Course, distill, learned, pace_of, shuffled
from sparsekit.patterns import NM, Block, Unstructured


@pytest.fixture
def batches(encoder, corpus):
    return encoder.unpadded(corpus.calibration, tokens=128, length=24)


@pytest.mark.parametrize(("pattern", "sparsity"), [(Unstructured(), 0.75), (Block(8, 8), 0.5)])
def test_the_student_ends_with_the_sparsity_of_its_course(encoder, batches, pattern, sparsity):
    student = copy.deepcopy(encoder.model)
    told = []
    masks = distill(student, encoder.model, batches, pattern, Course(8, 60.0, 0.2, sparsity), told.append)
    for name, mask in masks.items():
        weight = student.get_parameter(name)
        assert mask.sparsity == sparsity
        assert mask.pattern == pattern
        assert not weight[~mask.keep].any()
    assert told == sorted(told)
    assert len(told) == 8


def disagreement(student, teacher, batch):
    with torch.no_grad():
        mine, right = (model(**batch).last_hidden_state for model in (student, teacher))
    return (mine - right).square().mean()


def test_the_student_learns_and_the_teacher_does_not(encoder, batches):
    before = copy.deepcopy(encoder.model.state_dict())
    student, untaught = copy.deepcopy(encoder.model), copy.deepcopy(encoder.model)
    distill(student, encoder.model, batches, Unstructured(), Course(25, 60.0, 0.0, 0.5), lambda progress: None)
    distill(untaught, encoder.model, batches, Unstructured(), Course(1, 60.0, 0.5, 0.5), lambda progress: None)
    assert disagreement(student, encoder.model, batches[0]) < disagreement(untaught, encoder.model, batches[0])
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())
    assert not student.training


def test_a_pattern_that_fixes_its_sparsity_needs_none(encoder, batches):
    masks = distill(encoder.model, encoder.model, batches, NM(2, 4), Course(2, 60.0, 0.0, None), lambda progress: None)
    assert all(mask.pattern == NM(2, 4) for mask in masks.values())


def test_embedding_tables_do_not_learn(encoder):
    names = {id(parameter): name for name, parameter in encoder.model.named_parameters()}
    chosen = {names[id(parameter)] for parameter in learned(encoder.model)}
    assert {name for name in names.values() if name not in chosen} == {
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
    }


def test_a_course_warms_up_and_cools_down():
    course = Course(100, 60.0, 0.2, 0.9, rate=1.0)
    assert course.learning_rate(0.0, 0) == pytest.approx(0.05)
    assert course.learning_rate(0.5, 50) == pytest.approx(0.5)
    assert course.learning_rate(1.0, 99) == pytest.approx(0.0)


def test_a_slow_machine_has_a_shorter_course(encoder, batches, monkeypatch):
    course = Course(100, 10.0, 0.0, 0.5)
    assert [course.affordable(pace) for pace in (0.01, 0.5, 60.0)] == [100, 20, 1]
    told = []
    monkeypatch.setattr("sparsekit.demo.minilm.distill.pace_of", lambda *given: 4.0)
    masks = distill(copy.deepcopy(encoder.model), encoder.model, batches, Unstructured(), course, told.append)
    assert told == [0.5, 1.0]
    assert all(mask.sparsity == 0.5 for mask in masks.values())


def test_the_pace_is_that_of_the_second_time(encoder, batches, monkeypatch):
    clock = iter([0.0, 7.0, 9.0])
    monkeypatch.setattr("sparsekit.demo.minilm.distill.time.monotonic", lambda: next(clock))
    assert pace_of(encoder.model, encoder.model, batches[0]) == 2.0
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_each_round_reads_every_batch_once_in_the_same_order_as_before():
    first, second = shuffled(range(5)), shuffled(range(5))
    rounds = [next(first) for _ in range(10)]
    assert sorted(rounds[:5]) == sorted(rounds[5:]) == list(range(5))
    assert rounds == [next(second) for _ in range(10)]
