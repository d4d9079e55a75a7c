"""Estimates of mutual information against the truth, and what they refuse."""

import math
import warnings

import numpy as np
import pytest

import dim_jax
from dim_jax.data import pairs
from dim_jax.evaluation.information import estimate, fit, rows


def quietly(*args, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return dim_jax.estimate_mi(*args, **options)


def test_the_truth_is_found_and_what_is_known_of_it():
  # One test, since its programs are compiled once.
  task = pairs.find('normal')
  rng = np.random.default_rng(0)
  x, y = task.sample(rng, 1500)
  report = task.sample(rng, 1500)
  result = dim_jax.estimate_mi(x, y, report=report, seeds=(0, 1))
  exact = task.pointwise(*report)
  # Against the best critic on the same pairs: 1,500 pairs teach most of 0.41.
  assert result.value == pytest.approx(exact.mean(), abs=0.04)
  # Its own error is that of the best critic's mean.
  error = exact.std() / math.sqrt(1500)
  assert result.standard_error == pytest.approx(error, rel=0.15)
  low, high = result.interval
  assert low < task.mutual_information < high
  assert low < result.value < high
  assert high - low < 0.2
  assert result.warnings == ()
  assert abs(result.control) < 0.02
  assert result.critic == max(result.selected, key=result.selected.get)
  assert set(result.selected) == {'separable', 'joint'}
  assert result.sizes == {'fit': 1350, 'selection': 150, 'report': 1500}
  assert result.ceiling == pytest.approx(math.log(1500))
  assert 0 < result.seed_std < 0.05
  blocks = fit.blocks_for(result.critic, 1350, 2)
  for values in result.history.values():
    assert values.shape == (2, blocks)
    assert np.isfinite(values[:, 0]).all()
  found = result.pointwise(*report)
  assert found.shape == (1500,)
  assert np.corrcoef(found, exact)[0, 1] > 0.97
  assert found.mean() == pytest.approx(result.value, abs=1e-3)
  # Of pairs that are beyond all of these too.
  assert np.isfinite(result.pointwise([[9.0], [0.1]], [[-9.0], [0.1]])).all()
  with pytest.raises(ValueError, match='pointwise has 2 columns of x, and x 1'):
    result.pointwise(np.ones((4, 2)), np.ones(4))
  with pytest.raises(ValueError, match='pointwise has 4 rows of x and 3 of y'):
    result.pointwise(np.ones(4), np.ones(3))

  # Another task of the same padded shape compiles nothing.
  before = fit.fit._cache_size(), fit.measure._cache_size()
  task = pairs.find('additive_0.1')
  x, y = task.sample(rng, 1480)
  other = quietly(x, y, report=task.sample(rng, 1490), seeds=(3, 4))
  assert (fit.fit._cache_size(), fit.measure._cache_size()) == before
  # Hard edges: the joint critic, by a lot.
  assert other.critic == 'joint'
  assert other.selected['joint'] > other.selected['separable'] + 0.1
  assert other.value == pytest.approx(task.mutual_information, abs=0.12)


def test_labels():
  # y = x's cluster of 4, told wrongly once in 5: I = H(y) - H(y | x).
  rng = np.random.default_rng(0)
  true = rng.integers(0, 4, 1500)
  told = np.where(
    rng.random(1500) < 0.2, (true + rng.integers(1, 4, 1500)) % 4, true
  )
  x = 6.0 * true[:, None] + rng.normal(size=(1500, 1))
  with pytest.warns(UserWarning, match='y has 4 different whole numbers'):
    result = dim_jax.estimate_mi(x, told, control=False)
  noise = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2 / 3))
  # The clusters touch: 0.3 % of x is nearer to another.
  assert result.value == pytest.approx(math.log(4) - noise, abs=0.12)
  assert result.ceiling == pytest.approx(math.log(4), abs=0.01)
  assert result.critic == 'separable'
  assert result.control is None


def numbers(n=200, columns=2, seed=0):
  return np.random.default_rng(seed).normal(size=(n, columns))


def with_nan():
  x = numbers()
  x[3, 1] = np.nan
  return x


@pytest.mark.parametrize(
  ('x', 'y', 'options', 'match'),
  [
    (numbers(), numbers(199), {}, 'x has 200 rows and y 199'),
    (with_nan(), numbers(), {}, 'x has 1 rows with NaN or infinity'),
    (numbers(50), numbers(50), {}, '50 pairs are too few.*at least 100'),
    (np.ones((200, 2)), numbers(), {}, 'x is constant, which shares 0 nats'),
    (numbers(), numbers(), {}, 'x and y are equal.*infinite'),
    (numbers().astype(str), numbers(), {}, 'x has dtype <U'),
    (numbers()[:, :, None], numbers(), {}, r'accepted are \[n, D\] and \[n\]'),
    (numbers(), numbers(seed=1), {'critic': 'mlp'}, "'separable'.*got 'mlp'"),
    (numbers(), numbers(seed=1), {'seeds': ()}, 'seeds is empty'),
    (
      numbers(),
      numbers(seed=1),
      {'report': (numbers(columns=3), numbers())},
      'report has 3 columns of x, and x 2',
    ),
    (
      numbers(),
      numbers(seed=1),
      {'report': (numbers(30), numbers(30))},
      'report has 30 pairs; give at least 33',
    ),
  ],
)
def test_what_is_refused(x, y, options, match):
  with pytest.raises(ValueError, match=match):
    dim_jax.estimate_mi(x, y, **options)


def test_what_is_noted():
  notes = []
  x, y = numbers(), numbers(seed=1)
  x[:, 1] = 3.0
  x[:50], y[:50] = x[50:100], y[50:100]
  checked, columns = rows.checked({'x': x, 'y': y}, notes)
  assert checked['x'].shape == (200, 1)
  assert checked['y'].shape == (200, 2)
  np.testing.assert_array_equal(columns['x'].kept, [True, False])
  assert '1 of 2 columns of x are constant' in notes[0]
  assert '50 of 200 pairs are duplicates' in notes[1]


def test_what_the_outcome_warns_of():
  odd = estimate.MIEstimate(
    value=7.0,
    standard_error=0.01,
    seed_std=0.0,
    interval=(6.9, 7.1),
    ceiling=math.log(1500),
    control=0.5,
    critic='joint',
    settings={},
    selected={'joint': 7.0},
    # The second seed stopped early.
    history={'selection': np.array([[0.1, 0.2], [0.1, np.nan]])},
    sizes={'report': 1500},
    warnings=('first.',),
    pointwise=lambda x, y: x[:, 0],
  )
  with pytest.warns(UserWarning) as caught:
    notes = estimate._warned(odd, 1500).warnings
  assert [str(w.message) for w in caught] == list(notes)
  assert notes[0] == 'first.'
  assert 'near the ceiling of 1500 pairs, 7.31' in notes[1]
  assert 'permuted pairs, which share nothing, gave 0.500' in notes[2]
  assert 'still rose by 0.100 nats' in notes[3]


def test_training_that_stopped_early_warns_of_nothing():
  calm = estimate.MIEstimate(
    value=0.4,
    standard_error=0.01,
    seed_std=0.0,
    interval=(0.3, 0.5),
    ceiling=math.log(1500),
    control=None,
    critic='joint',
    settings={},
    selected={'joint': 0.4},
    history={'selection': np.array([[0.1, 0.4, np.nan]])},
    sizes={'report': 1500},
    warnings=(),
    pointwise=lambda x, y: x[:, 0],
  )
  assert estimate._warned(calm, 1500).warnings == ()
