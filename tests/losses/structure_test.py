"""Cross-entropies of places, against a second implementation and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import structure

H, W = 3, 4


def expected(logits, target):
  """-log softmax at one target a row, in float64."""
  logits = np.asarray(logits, np.float64)
  log_sum = np.log(np.exp(logits).sum(-1))
  return np.mean(
    [
      log_sum[index] - logits[index][target(*index)]
      for index in np.ndindex(logits.shape[:-1])
    ]
  )


def test_absolute_is_the_row_and_the_column_of_each_location():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(2, 3, H * W, H)).astype(np.float32)
  columns = rng.normal(size=(2, 3, H * W, W)).astype(np.float32)
  row, column = structure.coordinate_cross_entropies(
    jnp.asarray(rows), jnp.asarray(columns)
  )
  # Locations are counted row by row: 0..3, 4..7, 8..11.
  grid = [(i, j) for i in range(H) for j in range(W)]
  np.testing.assert_allclose(
    row, expected(rows, lambda n, m, k: grid[k][0]), rtol=1e-5
  )
  np.testing.assert_allclose(
    column, expected(columns, lambda n, m, k: grid[k][1]), rtol=1e-5
  )


def test_relative_is_the_offset_from_each_images_own_source():
  rng = np.random.default_rng(1)
  rows = rng.normal(size=(3, 2, H * W, 5)).astype(np.float32)
  columns = rng.normal(size=(3, 2, H * W, 7)).astype(np.float32)
  source = [0, 6, 11]  # (0, 0), (1, 2) and (2, 3)
  places = [(0, 0), (1, 2), (2, 3)]
  row, column = structure.coordinate_cross_entropies(
    jnp.asarray(rows), jnp.asarray(columns), jnp.asarray(source)
  )
  grid = [(i, j) for i in range(H) for j in range(W)]
  # Class 0 of the rows is an offset of -2, of the columns of -3.
  np.testing.assert_allclose(
    row,
    expected(rows, lambda n, m, k: grid[k][0] - places[n][0] + 2),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    column,
    expected(columns, lambda n, m, k: grid[k][1] - places[n][1] + 3),
    rtol=1e-5,
  )


def test_a_uniform_head_has_the_log_of_the_classes():
  source = jnp.asarray([5, 0])
  for rows, columns, at in ((3, 4, None), (5, 7, source)):
    found = structure.coordinate_cross_entropies(
      jnp.zeros((2, 1, 12, rows)), jnp.zeros((2, 1, 12, columns)), at
    )
    np.testing.assert_allclose(
      found, [math.log(rows), math.log(columns)], rtol=1e-6
    )


def test_a_perfect_head_has_nothing_to_lose():
  at = np.arange(12)
  source = 6  # (1, 2)
  for row, column, rows, columns, given in (
    (at // 4, at % 4, 3, 4, None),
    (at // 4 - 1 + 2, at % 4 - 2 + 3, 5, 7, jnp.asarray([source])),
  ):
    found = structure.coordinate_cross_entropies(
      200.0 * jnp.asarray(np.eye(rows)[row][None, None]),
      200.0 * jnp.asarray(np.eye(columns)[column][None, None]),
      given,
    )
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_gradient_is_softmax_less_the_target():
  rows = np.random.default_rng(2).normal(size=(1, 1, 12, 3)).astype(np.float32)
  found = jax.grad(
    lambda x: structure.coordinate_cross_entropies(x, jnp.zeros((1, 1, 12, 4)))[
      0
    ]
  )(jnp.asarray(rows))
  p = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
  target = np.eye(3)[np.arange(12) // 4][None, None]
  np.testing.assert_allclose(found, (p - target) / 12, atol=1e-6)


def test_logits_of_another_map_are_a_mistake():
  with pytest.raises(AssertionError):
    structure.coordinate_cross_entropies(
      jnp.zeros((2, 1, 12, 3)), jnp.zeros((2, 1, 12, 5))
    )
  with pytest.raises(AssertionError):
    structure.coordinate_cross_entropies(
      jnp.zeros((2, 1, 12, 5)), jnp.zeros((2, 1, 12, 7)), jnp.zeros(3, int)
    )
