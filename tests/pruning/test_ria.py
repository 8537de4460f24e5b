import pytest
import torch

from sparsekit.errors import PruningError
from sparsekit.pruning import RIA
from sparsekit.pruning.criteria.ria import relative_importance
from tests.calibrated import collected, correlated


def test_relative_terms_sum_to_columns_and_rows():
    """Each column's shares sum to 1, and each row's: together as many as there are columns and rows."""
    torch.manual_seed(0)
    weight = torch.randn(6, 10, dtype=torch.float64)
    assert float(relative_importance(weight).sum()) == pytest.approx(16)
    size = weight.abs()
    by_column, by_row = size / size.sum(dim=0), size / size.sum(dim=1, keepdim=True)
    assert float(by_column.sum()) == pytest.approx(10)
    assert float(by_row.sum()) == pytest.approx(6)
    torch.testing.assert_close(relative_importance(weight), by_column + by_row)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_equals_the_definition(power):
    torch.manual_seed(0)
    weight, inputs = torch.randn(6, 10, dtype=torch.float64), correlated(32, 10)
    scores = RIA(power).score(weight, collected(inputs))
    for i in range(6):
        for j in range(10):
            size = weight[i, j].abs()
            relative = size / weight[:, j].abs().sum() + size / weight[i].abs().sum()
            assert float(scores[i, j]) == pytest.approx(float(relative * inputs[:, j].norm() ** power))


def test_power_0_is_the_relative_importance_alone():
    weight = torch.randn(6, 10, dtype=torch.float64)
    scores = [RIA(power=0).score(weight, collected(correlated(32, 10, seed))) for seed in (0, 1)]
    torch.testing.assert_close(*scores)


def test_groups_of_a_convolution_have_columns_of_their_own():
    torch.manual_seed(0)
    weight, inputs = torch.randn(8, 3, 2, 2, dtype=torch.float64), correlated(32, 24)
    scores = RIA().score(weight, collected(inputs, groups=2))
    for part, columns in ((slice(0, 4), slice(0, 12)), (slice(4, 8), slice(12, 24))):
        expected = RIA().score(weight[part], collected(inputs[:, columns]))
        torch.testing.assert_close(scores[part], expected)


def test_rows_compare_if_asked():
    assert not RIA().by_row
    assert RIA(by_row=True).by_row


def test_impossible_power():
    with pytest.raises(PruningError, match="power >= 0"):
        RIA(power=-1)
