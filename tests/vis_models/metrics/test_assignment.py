"""Truth: every possible assignment tried, and the choices among equals that scipy makes."""

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vis_models.metrics.assignment import assign

pytestmark = pytest.mark.unit


def draw(seed: int) -> np.ndarray:
    """Gains with many equal ones and many zeros in every second matrix."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 6, 2)
    return rng.integers(0, 4, shape).astype(float) if seed % 2 else rng.random(shape) * (rng.random(shape) < 0.7)


def best_sum(gain: np.ndarray) -> float:
    wide = gain if gain.shape[0] <= gain.shape[1] else gain.T
    return max(wide[np.arange(len(wide)), list(p)].sum() for p in permutations(range(wide.shape[1]), len(wide)))


@pytest.mark.parametrize("seed", range(200))
def test_no_other_assignment_gains_more(seed):
    gain = draw(seed)
    rows, columns = assign(gain)
    assert gain[rows, columns].sum() == pytest.approx(best_sum(gain))
    assert len({*rows.tolist()}) == len(rows) == len({*columns.tolist()})
    assert (gain[rows, columns] > 0).all()
    assert rows.tolist() == sorted(rows.tolist())


def test_among_equals_the_choice_is_scipy_s():
    for seed in range(2000):
        gain = draw(seed)
        rows, columns = linear_sum_assignment(gain, maximize=True)
        worth = gain[rows, columns] > 0
        ours = assign(gain)
        assert (ours[0].tolist(), ours[1].tolist()) == (rows[worth].tolist(), columns[worth].tolist()), seed


def test_a_greedy_choice_that_costs_more_is_not_taken():
    rows, columns = assign(np.array([[0.9, 0.8], [0.8, 0.0]]))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 3)])
def test_where_nothing_is_gained_nothing_is_assigned(shape):
    assert [each.size for each in assign(np.zeros(shape))] == [0, 0]
