"""Checks of values: what they take, and what they say of the rest."""

import math

import numpy as np
import pytest

from dim_jax import checks


@pytest.mark.parametrize(
  ('value', 'interval'),
  [
    (1, 'int [1, inf)'),
    (np.int32(7), 'int [1, 7]'),
    (2**31 - 1, 'int [0, 2**31)'),
    (0.5, '(0, 1]'),
    (1, '(0, 1]'),
    (np.float32(0.25), '[0, 1)'),
    (None, '(0, inf) or None'),
    (-3.0, '(-inf, inf)'),
  ],
)
def test_numbers_within_their_interval_pass(value, interval):
  checks.check_range('x', value, interval)


@pytest.mark.parametrize(
  ('value', 'interval', 'message'),
  [
    (0, 'int [1, inf)', 'x must be a whole number >= 1, got 0.'),
    (1.0, 'int [1, inf)', 'x must be a whole number >= 1, got 1.0.'),
    (True, 'int [1, inf)', 'x must be a whole number >= 1, got True.'),
    (2**31, 'int [0, 2**31)', 'must be a whole number in [0, 2**31), got 2147'),
    (0.0, '(0, inf) or None', 'x must be > 0 or None, got 0.0.'),
    (None, '(0, inf)', 'x must be > 0, got None.'),
    (math.nan, '[0, 1]', 'x must be in [0, 1], got nan.'),
    (math.nan, '(-inf, inf)', 'x must be a finite number, got nan.'),
    (math.inf, '[0, inf)', 'x must be >= 0, got inf.'),
    ('3', '[0, inf)', "x must be >= 0, got '3'."),
    (1.0, '[0, 1)', 'x must be in [0, 1), got 1.0.'),
  ],
)
def test_what_is_outside_is_named(value, interval, message):
  with pytest.raises(ValueError) as refused:
    checks.check_range('x', value, interval)
  assert message in str(refused.value)


def test_a_choice_is_suggested():
  checks.check_choice('bound', 'jsd', ('jsd', 'infonce'))
  with pytest.raises(ValueError) as refused:
    checks.check_choice('bound', 'infonec', ('jsd', 'infonce'))
  assert str(refused.value) == (
    "bound must be one of 'jsd', 'infonce', got 'infonec'. Did you mean "
    "'infonce'?"
  )
  with pytest.raises(ValueError, match='must be one of 1, 2, got True'):
    checks.check_choice('bound', True, (1, 2))


def test_a_string_is_no_list_of_choices():
  checks.check_choices('probes', ['knn', 'svm'], ('knn', 'svm'))
  with pytest.raises(ValueError, match=r"a list of names, got .* \['knn'\]"):
    checks.check_choices('probes', 'knn', ('knn', 'svm'))
