"""Maps of what critics see: invertible, and indifferent to monotone warps."""

import numpy as np
import pytest
from scipy import stats

from dim_jax.evaluation.information import inputs


def test_normal_scores_are_quantiles_of_ranks():
  rows = np.array([[3.0], [1.0], [2.0], [10.0]])
  scores = inputs.normal_scores(rows)(rows)[:, 0]
  # Ranks 2, 0, 1 and 3 of four: (rank + 1/2) / 4.
  expected = stats.norm.ppf([0.625, 0.125, 0.375, 0.875])
  np.testing.assert_allclose(scores, expected)


def test_normal_scores_of_ties_and_of_what_is_beyond():
  scores = inputs.normal_scores(np.array([[0.0], [0.0], [1.0], [2.0]]))
  # The two zeros share the mean of 1/8 and 3/8; 0.5 is halfway to 5/8.
  new = np.array([[0.0], [0.5], [-9.0], [9.0]])
  expected = stats.norm.ppf([0.25, 0.4375, 0.25, 0.875])
  np.testing.assert_allclose(scores(new)[:, 0], expected)


def test_scores_ignore_monotone_warps():
  rng = np.random.default_rng(0)
  rows, new = rng.normal(size=(50, 3)), rng.normal(size=(10, 3))
  given = inputs.normal_scores(rows)(rows)
  np.testing.assert_allclose(inputs.normal_scores(rows**3)(rows**3), given)
  assert inputs.normal_scores(rows)(new).shape == (10, 3)


def test_norms_stand_beside_columns():
  rng = np.random.default_rng(0)
  rows = rng.standard_t(2, (400, 3))
  made = inputs.fit_inputs(rows)
  shown = made.map(rows)
  assert shown.shape == (400, 5)
  assert (made.columns, made.labels) == (5, None)
  assert shown.dtype == np.float32
  np.testing.assert_allclose(shown.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(shown.std(0), 1, atol=1e-4)
  # Both follow the norm of columns over 1.4826 median absolute deviations.
  centred = rows - np.median(rows, 0)
  widths = 1.4826 * np.median(np.abs(centred), 0)
  norms = np.linalg.norm(centred / widths, axis=1)
  assert stats.spearmanr(shown[:, 3], norms)[0] == pytest.approx(1, abs=1e-9)
  within = norms < 3 * np.median(norms)
  slope = np.polyfit(norms[within], shown[within, 4], 1)
  np.testing.assert_allclose(
    np.polyval(slope, norms[within]), shown[within, 4], atol=1e-4
  )
  assert np.ptp(shown[~within, 4]) < 1e-5


def test_one_column_has_its_inverse_hyperbolic_sine_beside_it():
  rows = np.random.default_rng(0).standard_cauchy((300, 1))
  shown = inputs.fit_inputs(rows).map(rows)
  assert shown.shape == (300, 2)
  median = np.median(rows)
  scaled = (rows - median) / (1.4826 * np.median(np.abs(rows - median)))
  tame = np.abs(np.arcsinh(scaled[:, 0])) < 5
  line = np.polyfit(np.arcsinh(scaled[tame, 0]), shown[tame, 1], 1)
  np.testing.assert_allclose(
    np.polyval(line, np.arcsinh(scaled[tame, 0])), shown[tame, 1], atol=1e-4
  )


def test_columns_that_are_mostly_one_value_have_a_width():
  rows = np.zeros((100, 2))
  rows[:20, 0], rows[:, 1] = np.arange(20), np.arange(100)
  assert np.isfinite(inputs.fit_inputs(rows).map(rows)).all()


def test_labels_are_one_hot():
  made = inputs.fit_inputs(np.array([[3.0], [7.0], [3.0]]), labels=True)
  assert (made.columns, made.labels) == (2, 2)
  # A label that was never seen is neither.
  shown = made.map(np.array([[7.0], [3.0], [4.0]]))
  np.testing.assert_array_equal(shown, [[0, 1], [1, 0], [0, 0]])
