"""Patterns of convolution kernels against enumeration."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from sparsekit.errors import PatternError
from sparsekit.patterns import KernelPattern, KernelSlice, OnePerKernel, StridedKernel


def kernels_of(keep):
    return [kernel.flatten() for row in keep for kernel in row]


def retained(scores, shapes):
    """What a dictionary of shapes, each a tuple of taps, retains: every kernel takes its best one."""
    return sum(max(float(kernel[list(shape)].sum()) for shape in shapes) for kernel in kernels_of(scores))


def test_kernels_go_by_their_sum():
    scores = torch.zeros(2, 2, 3, 3)
    scores[0, 0, 1, 1], scores[0, 1], scores[1, 0, 0] = 5.0, 0.4, 1.0
    keep = KernelSlice().select(scores, 0.5)
    assert keep.flatten(2).all(dim=2).tolist() == [[True, True], [False, False]]
    assert KernelSlice().admits(keep)
    keep[0, 0, 0, 0] = False
    assert not KernelSlice().admits(keep)


def test_one_per_kernel_keeps_the_highest():
    torch.manual_seed(0)
    scores = torch.randn(5, 4, 3, 2)
    keep = OnePerKernel().select(scores)
    for kernel, kept in zip(kernels_of(scores), kernels_of(keep)):
        assert kept.nonzero().flatten().tolist() == [int(kernel.argmax())]
    keep[0, 0] = True
    assert not OnePerKernel().admits(keep)
    assert OnePerKernel().admits(torch.zeros(2, 2, 3, 3, dtype=torch.bool))


def test_one_per_kernel_is_a_shift_and_a_product():
    """Shifting each input by the tap that its kernel kept, then a 1 x 1 kernel: the same convolution."""
    torch.manual_seed(0)
    weight, x = torch.randn(3, 2, 3, 3), torch.randn(1, 2, 6, 6)
    weight *= OnePerKernel().select(weight.abs())
    y = torch.zeros(1, 3, 4, 4)
    for i, j, row, column in weight.nonzero().tolist():
        y[0, i] += weight[i, j, row, column] * x[0, j, row : row + 4, column : column + 4]
    torch.testing.assert_close(F.conv2d(x, weight), y)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_a_dictionary_against_all_there_are(size, seed):
    """2 of 4 taps: 6 shapes. One shape, and as many as there are, are exact; between, greedy holds its bound."""
    torch.manual_seed(seed)
    scores = torch.rand(3, 4, 2, 2)
    shapes = list(combinations(range(4), 2))
    best = max(retained(scores, chosen) for chosen in combinations(shapes, size))
    keep = KernelPattern(2, size).select(scores)
    used = {tuple(kernel.nonzero().flatten().tolist()) for kernel in kernels_of(keep)}
    assert len(used) <= size
    found = float((scores * keep).sum())
    assert found == pytest.approx(retained(scores, used))
    assert found <= best * (1 + 1e-6)
    assert found >= best * (1 - 1 / 2.718281828)
    if size in (1, 6):
        assert found == pytest.approx(best)


def test_the_dictionary_grows_greedily():
    torch.manual_seed(0)
    scores = torch.rand(4, 5, 3, 3)
    shapes, chosen = list(combinations(range(9), 4)), []
    for _ in range(3):
        chosen.append(max(shapes, key=lambda shape: retained(scores, [*chosen, shape])))
    used = {tuple(kernel.nonzero().flatten().tolist()) for kernel in kernels_of(KernelPattern(4, 3).select(scores))}
    assert used <= set(chosen)
    assert float((scores * KernelPattern(4, 3).select(scores)).sum()) == pytest.approx(retained(scores, chosen))


@pytest.mark.parametrize("side", [3, 5])
def test_planted_shapes_are_found(side):
    """5 x 5 kernels have 12650 shapes of four taps, too many to try them all."""
    torch.manual_seed(0)
    planted = torch.stack([torch.randperm(side * side)[:4] for _ in range(4)])
    which = torch.randint(4, (8, 6))
    scores = 0.1 * torch.rand(8, 6, side * side)
    scores.scatter_add_(2, planted[which], 1 + torch.rand(8, 6, 4))
    scores = scores.reshape(8, 6, side, side)
    keep = KernelPattern(4, 4).select(scores)
    assert torch.equal(keep, scores > 0.5)


def test_a_large_dictionary_gives_every_kernel_its_best():
    torch.manual_seed(0)
    scores = torch.randn(3, 3, 3, 3)
    keep = KernelPattern(4, 9).select(scores)
    for kernel, kept in zip(kernels_of(scores), kernels_of(keep)):
        assert set(kept.nonzero().flatten().tolist()) == set(kernel.topk(4).indices.tolist())


def test_admits_counts_taps_and_shapes():
    pattern = KernelPattern(2, 2)
    keep = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    assert pattern.admits(keep)  # kernels that keep nothing
    keep[0, 0, 0, :2] = keep[1, 1, 0, :2] = keep[0, 1, 2, :2] = True
    assert pattern.admits(keep)
    keep[1, 0, 0, 2] = True
    assert not pattern.admits(keep)  # one tap
    keep[1, 0, 1, 1] = True
    assert not pattern.admits(keep)  # a third shape
    assert KernelPattern(2, 3).admits(keep)
    assert pattern.admits(torch.ones(2, 2, 1, 2, dtype=torch.bool))
    assert KernelPattern(4).admits(torch.ones(2, 2, 1, 1, dtype=torch.bool))


@pytest.mark.parametrize("shared", ["channel", "layer"])
@pytest.mark.parametrize(("stride", "sides"), [(2, (3, 3)), (3, (3, 3)), (2, (5, 5)), (4, (2, 3)), (9, (2, 2))])
def test_strided_against_every_offset(shared, stride, sides):
    torch.manual_seed(0)
    scores = torch.rand(4, 3, *sides)
    taps = sides[0] * sides[1]
    count = max(1, taps // stride)
    runs = [list(range(first, first + stride * count, stride)) for first in range(taps)]
    runs = [run for run in runs if run[-1] < taps]
    keep = StridedKernel(stride, shared).select(scores).flatten(2)
    for group in [[j] for j in range(3)] if shared == "channel" else [list(range(3))]:
        part = scores.flatten(2)[:, group]
        best = max(runs, key=lambda run: float(part[:, :, run].sum()))
        wanted = torch.zeros(taps, dtype=torch.bool)
        wanted[best] = True
        assert (keep[:, group] == wanted).all()


def test_a_strided_kernel_is_a_smaller_product():
    """Every output uses the same rows of the unfolded input; the others need not even be unfolded."""
    torch.manual_seed(0)
    weight, x = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 7, 7)
    keep = StridedKernel(2).select(weight.abs())
    weight = weight * keep
    used = keep.flatten(1)[0]
    assert int(used.sum()) == 3 * 4
    y = weight.flatten(1)[:, used] @ F.unfold(x, 3)[:, used]
    torch.testing.assert_close(y.reshape(2, 4, 5, 5), F.conv2d(x, weight))


def test_admits_shared_offsets():
    keep = StridedKernel(3).select(torch.rand(4, 2, 3, 3))
    assert StridedKernel(3).admits(keep)
    keep[0, 0] = False
    assert StridedKernel(3).admits(keep)
    keep[0, 0] = True
    assert not StridedKernel(3).admits(keep)
    apart = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    apart[:, 0, :, 0] = apart[:, 1, :, 1] = True
    assert StridedKernel(3).admits(apart)
    assert not StridedKernel(3, "layer").admits(apart)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KernelPattern(0), "got 0 and 8"),
        (lambda: KernelPattern(4, 0), "got 4 and 0"),
        (lambda: StridedKernel(0), "got 0 and 'channel'"),
        (lambda: StridedKernel(2, "filter"), "got 2 and 'filter'"),
    ],
)
def test_impossible_kernel_patterns(make, words):
    with pytest.raises(PatternError, match=words):
        make()
