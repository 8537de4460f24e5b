import copy

import pytest
import torch
import torch.nn.functional as F

from sparsekit.demo.cnn.learning import BATCH, Course, Goal, learn
from sparsekit.demo.cnn.network import behind_the_first, fresh
from sparsekit.patterns import KernelSlice, Unstructured

WIDTHS = (8, 8)
STEPS = 40


def loss(model, digits):
    with torch.no_grad():
        return F.cross_entropy(model.eval()(digits.test_images), digits.test_labels)


def test_a_dense_network_learns(digits):
    model = fresh(WIDTHS)
    before, told = loss(model, digits), []
    assert learn(model, digits, Course(STEPS, 0.1), None, told.append) == {}
    assert not model.training
    assert loss(model, digits) < before / 4
    assert told == [(step + 1) / STEPS for step in range(STEPS)]


@pytest.mark.parametrize(("pattern", "sparsity"), [(Unstructured(), 0.75), (KernelSlice(), 0.5)])
def test_a_network_ends_with_its_zeros_and_still_reads(digits, pattern, sparsity):
    dense = fresh(WIDTHS)
    learn(dense, digits, Course(STEPS, 0.1), None, lambda share: None)
    model = copy.deepcopy(dense)
    goal = Goal(pattern, sparsity, behind_the_first(model))
    masks = learn(model, digits, Course(STEPS, 0.1), goal, lambda share: None)
    assert set(masks) == {f"{name}.weight" for name in goal.layers}
    for name, mask in masks.items():
        assert mask.sparsity == pytest.approx(sparsity, abs=1e-2)
        assert pattern.admits(mask.keep)
        assert not model.get_parameter(name)[~mask.keep].any()
    assert model.get_parameter("0.weight").all()
    assert digits.accuracy(model, 16) >= 0.75


def test_batchnorm_ends_with_the_averages_of_the_final_weights(digits):
    model = fresh(WIDTHS)
    learn(model, digits, Course(2, 0.1), None, lambda share: None)
    with torch.no_grad():
        reached = model[0](digits.images).double()
    assert len(digits.images) <= BATCH
    assert torch.allclose(model[1].running_mean.double(), reached.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var.double(), reached.var(dim=(0, 2, 3)), rtol=1e-4)


def test_a_course_warms_up_and_cools_down():
    course = Course(1, rate=1.0)
    assert course.learning_rate(0.0) == 0.0
    assert course.learning_rate(0.1) == pytest.approx(0.5, abs=0.02)
    assert course.learning_rate(0.5) == pytest.approx(0.5)
    assert course.learning_rate(1.0) == pytest.approx(0.0)
