"""Information by scores: exact ones, learned ones, and what they warn of."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.data import pairs
from dim_jax.evaluation.information import denoisers, diffusion

N = 3000


def gaussian_predictions(of_x, of_both):
  """The best predictions of jointly Gaussian x and y, by conditioning.

  E[noise | z] = b (a^2 C + b^2 I)^-1 (z - a m), of mean m and covariance C.
  """
  of_xy, of_y = of_both[:of_x, of_x:], of_both[of_x:, of_x:]
  of_x, total = of_both[:of_x, :of_x], len(of_both)

  def best(z, mean, covariance, level):
    a, b = (s[:, None] for s in denoisers.scales(level))
    inner = a[..., None] ** 2 * covariance[None]
    inner += b[..., None] ** 2 * jnp.eye(len(covariance))[None]
    return b * jnp.linalg.solve(inner, (z - a * mean)[..., None])[..., 0]

  def predict(role, noised, clean, level):
    (x, y), (zx, zy) = clean, noised
    if role == 'x':
      return best(zx, 0 * zx, of_x, level), zy
    if role == 'x_given_y':
      slope = of_xy @ np.linalg.inv(of_y)
      return best(zx, y @ slope.T, of_x - slope @ of_xy.T, level), zy
    if role == 'y_given_x':
      slope = of_xy.T @ np.linalg.inv(of_x)
      return zx, best(zy, x @ slope.T, of_y - slope @ of_xy, level)
    both = jnp.concatenate(noised, 1)
    noise = best(both, jnp.zeros((1, total)), of_both, level)
    return noise[:, : len(of_x)], noise[:, len(of_x) :]

  return predict


# The third form is the first one but for its value.
@pytest.mark.parametrize('name', ['conditional', 'joint'])
def test_exact_predictions_give_the_truth(name):
  covariance = np.array([[1, 0.3, 0.6], [0.3, 1, 0.5], [0.6, 0.5, 1]])
  task = pairs.gaussian(covariance, 2)
  x, y = task.sample(np.random.default_rng(0), N)
  read = diffusion.read(
    gaussian_predictions(2, covariance),
    diffusion.FORMS[name],
    (jnp.float32(x), jnp.float32(y)),
    (jnp.ones(2), jnp.ones(1)),
    jax.random.key(0),
    12,
  )
  for values in read.values():
    error = values.std() / math.sqrt(N)
    assert error < 0.03
    assert values.mean() == pytest.approx(
      task.mutual_information, abs=3 * float(error)
    )
  # Of each pair by itself too, where the others hold in the mean alone.
  exact = task.pointwise(x, y)
  assert np.corrcoef(read['nll'], exact)[0, 1] > 0.7
  assert np.corrcoef(read['difference'], exact)[0, 1] < 0.5


def test_levels_integrate_to_an_entropy():
  # From N(0, 1) to N(0, s^2): KL = (s^2 - 1 - ln s^2) / 2, which is what the
  # entropy ln(2 pi e s^2) / 2 lacks of ln(2 pi) / 2 + s^2 / 2.
  s = 0.4
  x = s * np.random.default_rng(0).normal(size=(N, 1))

  def predict(role, noised, clean, level):
    del clean
    a, b = (z[:, None] for z in denoisers.scales(level))
    variance = 1.0 if role == 'x' else s**2
    return b * noised[0] / (a**2 * variance + b**2), noised[1]

  read = diffusion.read(
    predict,
    diffusion.FORMS['conditional'],
    (jnp.float32(x), jnp.zeros((N, 1))),
    (jnp.ones(1), jnp.zeros(1)),
    jax.random.key(0),
    32,
  )
  entropy = math.log(2 * math.pi * math.e * s**2) / 2
  expected = math.log(2 * math.pi) / 2 + s**2 / 2 - entropy
  for values in read.values():
    assert values.mean() == pytest.approx(expected, abs=0.04)
  # The one that is exact of each row: ln N(x; 0, s^2) / N(x; 0, 1), in the
  # mean over rows that are near each other.
  exact = -math.log(s) + x[:, 0] ** 2 * (1 - s**-2) / 2
  far = np.abs(x[:, 0]) > s
  for rows in (far, ~far):
    mean = np.asarray(read['nll'])[rows].mean()
    assert mean == pytest.approx(exact[rows].mean(), abs=0.08)


def test_a_new_network_predicts_as_for_a_unit_gaussian():
  rng = np.random.default_rng(0)
  params = denoisers.init(jax.random.key(0), 8, 5, 16)
  z, w = (tuple(np.float32(rng.normal(size=(2, 6, 4)))) for _ in range(2))
  predict = jax.jit(denoisers.predict, static_argnums=1)
  level = np.linspace(-8, 10, 6, dtype=np.float32)
  for role in denoisers.ROLES:
    noise = predict(params, role, z, w, level)
    for side, of_side in zip(z, noise, strict=True):
      b = 1 / np.sqrt(1 + np.exp(level))
      np.testing.assert_allclose(of_side, b[:, None] * side, rtol=1e-5)
  # Once it has learned, it looks at what its role shows, and at nothing else.
  params['out'] = params['out'] + 1.0
  a = predict(params, 'x', z, w, level)[0]
  b = predict(params, 'x', (z[0], w[0]), (w[1], z[1]), level)[0]
  c = predict(params, 'x_given_y', z, (w[1], w[1]), level)[0]
  d = predict(params, 'x_given_y', z, (w[1], z[1]), level)[0]
  np.testing.assert_array_equal(a, b)
  assert np.abs(a - c).max() > 0.01
  assert np.abs(c - d).max() > 0.01


def test_a_fit_learns_and_a_short_one_says_that_it_still_moves():
  # One test, since its program is compiled once.
  task = pairs.find('normal')
  rng = np.random.default_rng(0)
  x, y = task.sample(rng, 900)
  report = task.sample(rng, 900)
  options = {'form': 'joint', 'units': 16}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    result = diffusion.estimate_by_scores(
      x, y, report=report, steps=400, **options
    )
  exact = task.pointwise(*report)
  assert result.read_outs['nll'] == pytest.approx(exact.mean(), abs=0.05)
  assert result.value == result.read_outs['difference']
  assert result.value == pytest.approx(task.mutual_information, abs=0.12)
  low, high = result.interval
  assert low < task.mutual_information < high
  assert low < min(result.read_outs.values())
  assert high > max(result.read_outs.values())
  assert result.sizes == {'fit': 810, 'selection': 90, 'report': 900}
  assert {h.shape for h in result.history.values()} == {(1, diffusion.BLOCKS)}
  found = result.pointwise(*report)
  assert np.corrcoef(found, exact)[0, 1] > 0.85

  # Another task of the same padded shape, and fewer steps, compile nothing.
  before = diffusion.fit._cache_size(), diffusion.measure._cache_size()
  x, y = task.sample(rng, 890)
  fresh = task.sample(rng, 880)
  with pytest.warns(UserWarning) as caught:
    short = diffusion.estimate_by_scores(
      x, y, report=fresh, steps=70, **options
    )
  assert tuple(str(w.message) for w in caught) == short.warnings
  assert 'still moves: half of the 80 steps' in ' '.join(short.warnings)
  after = diffusion.fit._cache_size(), diffusion.measure._cache_size()
  assert after == before
  assert short.settings == {'steps': 80, 'units': 16}
  most = max(short.moved.values(), key=abs)
  assert abs(most) > 0.05
  # 40 steps of the same seed and pairs are its first half.
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    half = diffusion.estimate_by_scores(x, y, report=fresh, steps=40, **options)
  np.testing.assert_allclose(
    short.history['nll'][:, :10], half.history['nll'][:, 1::2], rtol=1e-4
  )
  assert short.value - short.moved['difference'] == pytest.approx(
    half.value, rel=1e-3
  )


def read_outs(difference, sigma, nll, std=0.1):
  """What 400 rows read: exact means, and errors of std / 20."""
  noise = std * np.resize([-1.0, 1.0], (1, 400))
  values = {'difference': difference, 'sigma': sigma, 'nll': nll}
  return {name: value + noise for name, value in values.items()}


def test_a_settled_estimate_warns_of_nothing():
  end = read_outs(0.400, 0.402, 0.405)
  fields = diffusion._combined('difference', end, end, end, 1000, [])
  assert fields['warnings'] == ()
  assert fields['value'] == pytest.approx(0.4)
  assert fields['standard_error'] == pytest.approx(0.1 / 20)
  assert fields['interval'] == pytest.approx(
    (0.400 - 1.96 * 0.005, 0.405 + 1.96 * 0.005), abs=1e-5
  )


def test_what_an_outcome_warns_of():
  fields = diffusion._combined(
    'nll',
    read_outs(0.400, 0.350, 0.405),
    read_outs(0.400, 0.380, 0.305),
    read_outs(0.400, 0.350, 0.600),
    1000,
    ['first.'],
  )
  notes = fields['warnings']
  assert len(notes) == 4
  assert notes[0] == 'first.'
  assert (
    'half of the 1000 steps would have read 0.305 nats (nll) where all of them '
    'read 0.405'
  ) in notes[1]
  assert 'sigma and nll, are 0.350 and 0.405 nats' in notes[2]
  assert 'read 0.600 nats (nll), and fresh ones 0.405' in notes[3]
  # Down by as much as sigma fell, up to what pairs that fitted read.
  assert fields['moved']['sigma'] == pytest.approx(-0.03)
  assert fields['interval'] == pytest.approx(
    (0.350 - 0.0098 - 0.03, 0.600 + 0.0098), abs=1e-4
  )


def numbers(n=200, seed=0):
  return np.random.default_rng(seed).normal(size=(n, 2))


@pytest.mark.parametrize(
  ('y', 'options', 'match'),
  [
    (numbers(199), {}, 'x has 200 rows and y 199'),
    (numbers(), {}, 'x and y are equal'),
    (np.zeros((200, 4, 4, 1)), {}, 'y is constant'),
    (
      np.random.default_rng(0).random((200, 4, 4, 1)),
      {},
      r'y has shape \[n, H, W, C\]; give columns',
    ),
    (np.arange(200) % 4, {}, 'y has few different whole numbers'),
    (numbers(seed=1), {'form': 'minde'}, "form must be one of 'conditional'"),
    (numbers(seed=1), {'steps': 10}, r'steps must be a whole number >= 20'),
    (numbers(seed=1), {'units': 0}, 'units must be a whole number >= 1'),
    (numbers(seed=1), {'seeds': ()}, 'seeds is empty'),
    (
      numbers(seed=1),
      {'report': (numbers(30), numbers(30))},
      'report has 30 pairs',
    ),
  ],
)
def test_what_is_refused(y, options, match):
  with pytest.raises(ValueError, match=match):
    diffusion.estimate_by_scores(numbers(), y, **options)


def test_columns_that_repeat_are_noted():
  notes = []
  diffusion._check_density('x', np.round(numbers(), 1) + 0.05, notes)
  assert 'a column of x has' in notes[0]
