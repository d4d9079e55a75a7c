"""Estimates of mutual information against the truth, and what they refuse."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import dim_jax
from dim_jax.data import pairs
from dim_jax.evaluation.information import (
  critics,
  estimate,
  fit,
  outcome,
  rows,
)


def quietly(*args, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return dim_jax.estimate_mi(*args, **options)


def test_the_truth_is_found_and_what_is_known_of_it(monkeypatch):
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
  # In pieces, as each pair is compared with all that were reported.
  monkeypatch.setattr(outcome, '_POINTWISE_ROWS', 600)
  np.testing.assert_allclose(result.pointwise(*report), found, atol=1e-5)
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


def test_conditional_information():
  # x = z + u + noise and y = z + u + noise: u is what is left when z is known.
  # x alone would tell of y much more.
  rng = np.random.default_rng(0)
  z, u, first, second = rng.normal(size=(4, 3000))
  x, y = 2 * z + u + 0.5 * first, 2 * z + u + 0.5 * second
  # Given z, both have variance 1.25 and covariance 1.
  truth = -math.log(1 - (1 / 1.25) ** 2) / 2
  # Without z: variance 5.25, covariance 5.
  assert -math.log(1 - (5 / 5.25) ** 2) / 2 > 2 * truth
  result = quietly(x, y, given=z, critic='separable')
  # A difference of two estimates, of about 1.4 and 0.9 nats.
  assert result.value == pytest.approx(truth, abs=0.1)
  low, high = result.interval
  assert low < truth < high
  assert abs(result.control) < 0.1
  # Of the pairs themselves, whose mean the value is.
  pointwise = result.pointwise(x, y, z)
  exact = (x - 2 * z) * (y - 2 * z) / 1.25
  exact = (
    0.8 * exact - 0.32 * ((x - 2 * z) ** 2 + (y - 2 * z) ** 2) / 1.25
  ) / (1 - 0.64) + truth
  assert np.corrcoef(pointwise, exact)[0, 1] > 0.9
  with pytest.raises(ValueError, match='pointwise has 2 sides; give x, y, giv'):
    result.pointwise(x, y)

  # Nothing is left: y is z with noise that x does not share. Much smaller than
  # what x tells of y, and the same program.
  before = fit.fit._cache_size()
  y = 2 * z + second
  nothing = quietly(x, y, given=z, critic='separable', control=False)
  assert fit.fit._cache_size() == before
  low, high = nothing.interval
  assert low < 0 < high
  assert nothing.value == pytest.approx(0, abs=0.08)


def test_folds_settings_and_another_bound():
  task = pairs.find('normal')
  x, y = task.sample(np.random.default_rng(0), 900)
  result = quietly(
    x,
    y,
    critic='separable',
    bound='jsd',
    folds=3,
    # At a rate of 0 nothing is learned, which the selection split shows.
    grid={'learning_rate': (0.0, 4e-3)},
    control=False,
  )
  assert result.settings == {'learning_rate': 4e-3, 'weight_decay': 2.0}
  # All pairs are reported, each by a critic that 540 others fitted: few.
  assert result.sizes == {'fit': 540, 'selection': 60, 'report': 900}
  exact = task.pointwise(x, y)
  assert result.value == pytest.approx(exact.mean(), abs=0.08)
  error = exact.std() / math.sqrt(900)
  # What was learned of few pairs varies less than what is there.
  assert 0.6 * error < result.standard_error < 1.1 * error
  assert result.ceiling == pytest.approx(math.log(300))
  assert np.corrcoef(result.pointwise(x, y), exact)[0, 1] > 0.95


def test_total_correlation():
  # Three columns of which all are correlated by 0.6, and one by itself.
  rng = np.random.default_rng(0)
  covariance = np.full((3, 3), 0.6) + 0.4 * np.eye(3)
  z = rng.normal(size=(1500, 4))
  z[:, :3] = z[:, :3] @ np.linalg.cholesky(covariance).T
  truth = -np.linalg.slogdet(covariance)[1] / 2
  # Which no increasing map of a column changes.
  z[:, 1] = np.exp(z[:, 1])
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    result = dim_jax.total_correlation(z)
  assert result.value == pytest.approx(truth, abs=0.12)
  low, high = result.interval
  assert low < truth < high
  assert abs(result.control) < 0.08
  assert result.critic == 'columns'
  z[:, 1] = np.log(z[:, 1])
  precision = np.linalg.inv(covariance)
  squares = np.einsum('ni,ij,nj->n', z[:, :3], precision - np.eye(3), z[:, :3])
  z[:, 1] = np.exp(z[:, 1])
  correlation = np.corrcoef(result.pointwise(z), truth - squares / 2)[0, 1]
  assert correlation > 0.9


def test_images(monkeypatch):
  monkeypatch.setattr(critics, 'CHANNELS', (4, 8))
  # One bit a picture, through a channel that flips 5 % of them.
  rng = np.random.default_rng(0)
  images = rng.integers(0, 100, (60, 6, 6, 1)).astype(np.uint8)
  images[:30, :3] += 100  # Bright above, or below.
  images[30:, 3:] += 100
  task = pairs.shared_bits(images, np.repeat([0, 1], 30), 0.05, grid=(1, 1))
  x, y = task.sample(rng, 900)
  result = quietly(x, y, control=False)
  assert result.value == pytest.approx(task.mutual_information, abs=0.12)
  exact = task.pointwise(x, y)
  assert np.corrcoef(result.pointwise(x, y), exact)[0, 1] > 0.9
  with pytest.raises(ValueError, match=r'rows of x of shape \(5, 6, 1\)'):
    result.pointwise(x[:, 1:], y)


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
      {'bound': 'infonce', 'critic': 'joint'},
      "'infonce' does not train the joint critic",
    ),
    (numbers(), numbers(seed=1), {'bound': 'mine'}, "'nwj', got 'mine'"),
    (numbers(), numbers(seed=1), {'folds': 1}, 'folds must be .* >= 2'),
    (
      numbers(),
      numbers(seed=1),
      {'folds': 50},
      '50 folds of 200 rows; give 2 to 6, .* 33 to 16384 rows',
    ),
    (numbers(), numbers(seed=1), {'grid': {'units': (3,)}}, "got 'units'"),
    (
      numbers(),
      numbers(seed=1),
      {'grid': {'weight_decay': ()}},
      'grid has no value',
    ),
    (
      numbers(),
      numbers(seed=1),
      {'folds': 2, 'report': (numbers(), numbers())},
      'folds report on all rows in turn',
    ),
    (
      numbers(),
      numbers(seed=1),
      {'given': numbers()},
      'x and given are equal',
    ),
    (
      numbers(),
      numbers(seed=1),
      {'given': np.zeros((200, 4, 4, 1))},
      r'given has shape \[n, H, W, C\]',
    ),
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


@pytest.mark.parametrize(
  ('x', 'options', 'match'),
  [
    (numbers(columns=1), {}, 'x has 1 column that varies; total correlation'),
    (np.zeros((200, 4, 4, 1)), {}, 'give its columns'),
  ],
)
def test_what_total_correlation_refuses(x, options, match):
  with pytest.raises(ValueError, match=match):
    dim_jax.total_correlation(x, **options)


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


@pytest.mark.parametrize(
  ('x', 'y', 'copies'),
  [
    # Of continuous values, with labels and without, once, twice and often.
    (numbers(), numbers(columns=1) > 0, 1),
    (numbers(), numbers(columns=1) > 0, 2),
    (numbers(), numbers(seed=1), 2),
    (numbers(columns=1), numbers(seed=1), 5),
    # Whole numbers meet again by chance.
    (np.arange(200) % 40, np.arange(200) // 20, 3),
  ],
)
def test_copies_are_noted_where_they_are_no_chance(x, y, copies):
  notes = []
  sides = {'x': rows.as_rows('x', x), 'y': rows.as_rows('y', y)}
  repeated = {name: np.tile(side, (copies, 1)) for name, side in sides.items()}
  rows.checked(repeated, notes)
  copied = f'{200 * (copies - 1)} of {200 * copies} pairs are duplicates'
  continuous = x.ndim > 1
  assert any(copied in note for note in notes) == (continuous and copies > 1)


def test_the_ceiling_of_labels_beside_what_is_given():
  sides = {
    'x': numbers(),
    'y': np.arange(200.0)[:, None] % 2,
    'given': numbers(),
  }
  of_labels = math.log(2)
  for given in (True, False):
    shown = {k: v for k, v in sides.items() if given or k != 'given'}
    terms = estimate._pair_terms(shown, [])
    ceiling = estimate._ceiling([{'report': shown}], terms)
    assert ceiling == pytest.approx(of_labels)
  # 64 torn rows for each that is reported.
  terms = estimate._column_terms({'x': numbers()}, [])
  ceiling = estimate._ceiling([{'report': {'x': numbers()}}], terms)
  assert ceiling == pytest.approx(math.log(64 * 200))


def test_half_precision_is_numbers():
  half = jnp.asarray(numbers(), jnp.bfloat16)
  found = rows.as_rows('x', half)
  assert found.dtype == np.float64
  np.testing.assert_array_equal(found, np.asarray(half.astype(jnp.float32)))


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
    sizes={'fit': 5000, 'report': 1500},
    warnings=('first.',),
    pointwise=lambda x, y: x[:, 0],
  )
  with pytest.warns(UserWarning) as caught:
    notes = estimate._warned(odd, 1500).warnings
  assert [str(w.message) for w in caught] == list(notes)
  assert notes[0] == 'first.'
  assert 'reaches 7.10 nats, where 1500 pairs can show 7.31' in notes[1]
  assert 'permuted pairs, which share nothing, gave 0.500' in notes[2]
  assert 'still rose by 0.100 nats' in notes[3]
  # Total correlation is hard to tell from a quarter of ln n on: here 1.83.
  calm = {'value': 1.7, 'critic': 'columns', 'control': None, 'warnings': ()}
  calm |= {'history': {'selection': np.ones((1, 3))}}
  low = odd._replace(interval=(1.6, 1.8), **calm)
  assert estimate._warned(low, 1500).warnings == ()
  with pytest.warns(UserWarning, match=r'reaches 1\.90 .* below about 1\.83'):
    estimate._warned(odd._replace(interval=(1.6, 1.9), **calm), 1500)


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
    sizes={'fit': 5000, 'report': 1500},
    warnings=(),
    pointwise=lambda x, y: x[:, 0],
  )
  assert estimate._warned(calm, 1500).warnings == ()


def test_the_deviation_over_seeds_is_that_of_a_sample():
  # Half of the distance of two values, times sqrt(2).
  assert outcome.std_of_seeds(np.array([1.0, 3.0])) == pytest.approx(2**0.5)
  assert outcome.std_of_seeds(np.array([1.0])) == 0


def test_of_more_pairs_than_are_reported_on_the_choice_is_random():
  count = rows.MOST_REPORTED + 4000
  ordered = np.arange(count, dtype=np.float64)[:, None]
  sides = {'x': ordered, 'y': -ordered}
  notes = []
  found = rows.split(
    {k: v[:200] for k, v in sides.items()},
    sides,
    np.random.default_rng(0),
    notes,
  )['report']
  np.testing.assert_array_equal(found['x'], -found['y'])
  assert len(np.unique(found['x'])) == len(found['x']) == rows.MOST_REPORTED
  # The mean of a random choice of most is near that of all.
  assert abs(found['x'].mean() / ordered.mean() - 1) < 0.01
  assert 'a fixed random choice' in notes[0]
