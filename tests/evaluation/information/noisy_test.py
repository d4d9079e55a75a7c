"""Bounds with stated noise: against known information, and NumPy."""

import math

import jax
import numpy as np
import pytest
from scipy import special, stats

from dim_jax.evaluation.information import monitor, noisy
from dim_jax.losses import bottleneck

KEY = jax.random.key(3)


def floats(channel):
  return {k: float(v) for k, v in channel._asdict().items() if v is not None}


def reference(log_densities, labels):
  """The four bounds in float64, of ln p(t'_i | t_j) [n, n]."""
  n = len(labels)
  own = np.diag(log_densities)
  others = np.where(np.eye(n) > 0, -np.inf, log_densities)
  same = labels[:, None] == labels[None]
  frequency = same.mean(1)

  def log_sum(x, where=True):
    return special.logsumexp(np.where(where, x, -np.inf), axis=1)

  by_others = np.exp(log_sum(others, same) - log_sum(others))
  classes = len(np.unique(labels))
  mixed = (1 - 1 / n) * by_others + 1 / n / classes
  by_all = np.exp(log_sum(log_densities, same) - log_sum(log_densities))
  return {
    'lower': np.mean(own - log_sum(log_densities)) + math.log(n),
    'upper': np.mean(own - log_sum(others)) + math.log(n - 1),
    'label_lower': np.mean(np.log(mixed / frequency)),
    'label_upper': np.mean(np.log(by_all / frequency)),
    'label_ceiling': stats.entropy(np.bincount(labels)),
  }


def assert_close(channel, expected, rtol=1e-4, atol=1e-5):
  values = floats(channel)
  for name, value in expected.items():
    np.testing.assert_allclose(
      values[name], value, rtol=rtol, atol=atol, err_msg=name
    )


@pytest.mark.parametrize(
  # Of 61 rows at a time, the last chunk holds some of the one before it.
  ('n', 'size', 'noise', 'chunk'),
  [(211, 3, 1.0, 61), (212, 40, 0.2, 10_000), (213, 1, 0.01, 1)],
)
def test_equals_numpy_in_float64(n, size, noise, chunk, monkeypatch):
  monkeypatch.setattr(noisy, '_CHUNK', chunk * n)
  rng = np.random.default_rng(0)
  # Far from the origin, of unequal columns, and with a pair of equal rows.
  x = rng.normal(size=(n, size)) * np.linspace(1, 3, size)[None] + 100
  x[1] = x[0]
  x = x.astype(np.float32)
  labels = rng.integers(0, 3, n)
  channel = noisy.channel(x, noise, KEY, labels=labels)
  std = noise * np.sqrt(np.mean(np.var(x.astype(np.float64), 0)))
  z = std * np.asarray(jax.random.normal(KEY, x.shape), np.float64)
  x = x.astype(np.float64)
  squares = np.sum((x[:, None] + z[:, None] - x[None]) ** 2, 2)
  expected = reference(-squares / (2 * std**2), labels)
  covariance = np.cov(x.T, bias=True).reshape(size, size)
  log_det = np.linalg.slogdet(np.eye(size) + covariance / std**2)[1]
  expected |= {'gaussian': log_det / 2, 'noise_std': std}
  # Rounding of float32, as the documentation has it.
  assert_close(channel, expected, atol=max(1e-5, 3e-7 * size / noise**2))


@pytest.mark.parametrize('noise', [1.0, 3.0])
def test_gaussian_truth_is_between(noise):
  n, variances = 2000, np.array([4.0, 1.0, 0.25])
  x = np.random.default_rng(0).normal(size=(n, 3)) * np.sqrt(variances)[None]
  # s^2 is noise^2 times the mean variance; 1/2 sum ln(1 + variance / s^2).
  truth = np.log1p(variances / (noise**2 * variances.mean())).sum() / 2
  channel = noisy.channel(x, noise, KEY)
  values = floats(channel)
  assert values['lower'] < truth + 3 * values['lower_error']
  assert values['upper'] > truth - 3 * values['upper_error']
  # They meet, as truth is 0.9 and 0.2 nats of ln 2000 = 7.6.
  assert 0 < values['upper'] - values['lower'] < 0.01 * math.exp(truth)
  # Half the log determinant has a variance of D / (2 n) at most.
  np.testing.assert_allclose(
    values['gaussian'], truth, atol=3 * math.sqrt(3 / (2 * n))
  )


def test_a_covariance_of_few_rows_is_too_small():
  # 200 draws of 20 rows in 8 dimensions, without noise to speak of.
  n, size = 20, 8
  draws = np.random.default_rng(0).normal(size=(200, n, size))
  found = [np.linalg.slogdet(np.cov(x.T, bias=True))[1] / 2 for x in draws]
  error = np.std(found) / math.sqrt(len(found))
  shortfall = noisy.shortfall(n, size)
  assert abs(-np.mean(found) - shortfall) < 4 * error < shortfall / 4
  # To leading order D (D + 1) / (4 n), here of the mean too: D / (2 n) more.
  np.testing.assert_allclose(
    noisy.shortfall(100_000, 5), (5 * 6 / 4 + 5 / 2) / 100_000, rtol=1e-3
  )
  assert noisy.shortfall(20, 20) == math.inf


def test_many_dimensions_reach_the_ceiling():
  n, size = 1000, 64
  x = np.random.default_rng(0).normal(size=(n, size))
  truth = size / 2 * math.log(2)  # 22.2 nats, and ln 1000 is 6.9.
  values = floats(noisy.channel(x, 1.0, KEY))
  np.testing.assert_allclose(values['ceiling'], math.log(1000), rtol=1e-6)
  np.testing.assert_allclose(values['lower'], math.log(1000), rtol=1e-4)
  assert values['upper'] > truth
  # The bias that the documentation has, and three standard errors.
  bias = size * (size + 1) / (4 * n)
  error = 3 * math.sqrt(size / (2 * n))
  assert truth - bias - error < values['gaussian'] < truth + error


def two_points(noise):
  """I(T; T + Z) of T = -1 or 1: ln 2 - E ln(1 + e^(-2 (1 + s z) / s^2))."""
  nodes, masses = np.polynomial.hermite_e.hermegauss(80)
  masses = masses / masses.sum()
  terms = np.logaddexp(0, -2 * (1 + noise * nodes) / noise**2)
  return math.log(2) - float(masses @ terms)


@pytest.mark.parametrize('noise', [0.3, 1.0, 2.0])
def test_two_points(noise):
  # Their mean is 0 and their standard deviation 1.
  labels = np.arange(2000) % 2
  x = 2.0 * labels[:, None] - 1
  values = floats(noisy.channel(x, noise, KEY, labels=labels))
  truth = two_points(noise)
  for name in ('lower', 'upper', 'label_lower', 'label_upper'):
    # Labels are all that there is to tell; of 2,000 rows 1,000 are alike.
    error = values.get(f'{name}_error', 0)
    np.testing.assert_allclose(
      values[name], truth, atol=3 * error + 0.01, err_msg=name
    )


def test_clusters_tell_their_labels_and_others_nothing():
  rng = np.random.default_rng(0)
  clusters = np.arange(600) % 6
  centres = 10 * np.eye(6)
  x = centres[clusters] + 0.1 * rng.normal(size=(600, 6))
  values = floats(noisy.channel(x, 0.1, KEY, labels=clusters))
  for name in ('label_lower', 'label_upper', 'label_ceiling'):
    np.testing.assert_allclose(values[name], math.log(6), atol=0.01)
  values = floats(noisy.channel(x, 0.1, KEY, labels=rng.permutation(clusters)))
  assert values['label_lower'] < 0 < values['label_upper']
  # Without the tells of single rows, only what six clusters and six labels of
  # 100 rows each have by chance: 5 * 5 / (2 * 600) nats, either way.
  values = floats(noisy.channel(x, 1.0, KEY, labels=rng.permutation(clusters)))
  assert -0.1 < values['label_lower'] < values['label_upper'] < 0.1


def label_truth(noise):
  """I(T + Z; C) of C = -1 or 1, T ~ N(2 C, 1), by integration."""
  t = np.linspace(-15, 15, 6001)
  densities = [stats.norm.pdf(t, m, math.hypot(1, noise)) for m in (-2, 2)]
  mixture = sum(densities) / 2
  terms = [special.xlogy(p, p / mixture) for p in densities]
  return sum(terms).sum() * (t[1] - t[0]) / 2


def test_bounds_of_labels_hold_in_expectation():
  noise, n = 0.3, 100
  std = math.sqrt(5)  # Of T: the clusters' 1, and 4 between them.
  lower, upper = [], []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = 4.0 * labels[:, None] - 2 + rng.normal(size=(n, 1))
    values = floats(
      noisy.channel(x, noise, jax.random.key(seed), labels=labels)
    )
    lower.append(values['label_lower'])
    upper.append(values['label_upper'])
  truth = label_truth(noise * std)
  for values, sign in ((lower, 1), (upper, -1)):
    error = np.std(values) / math.sqrt(len(values))
    assert sign * (truth - np.mean(values)) > -3 * error
  assert 0 < np.mean(upper) - np.mean(lower) < 0.1


def test_standard_errors_are_those_of_other_samples():
  names = ('lower', 'upper', 'label_lower', 'label_upper')
  values = {name: [] for name in names}
  errors = {name: [] for name in names}
  for seed in range(150):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(150, 2))
    labels = (x[:, 0] + rng.normal(size=150) > 0).astype(int)
    channel = floats(noisy.channel(x, 0.7, jax.random.key(seed), labels=labels))
    for name in names:
      values[name].append(channel[name])
      errors[name].append(channel[f'{name}_error'])
  for name in names:
    # The standard deviation of 150 values is known to 6 %.
    np.testing.assert_allclose(
      np.mean(errors[name]), np.std(values[name]), rtol=0.25, err_msg=name
    )


def test_neither_offset_nor_scale_matters():
  x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
  first = noisy.channel(x, 1.0, KEY)
  second = noisy.channel(64 * x + 512, 1.0, KEY)
  np.testing.assert_allclose(second.noise_std, 64 * first.noise_std, rtol=1e-4)
  assert_close(second._replace(noise_std=first.noise_std), floats(first), 1e-3)
  # Constant features tell nothing, and their noise is not relative.
  constant = floats(noisy.channel(0 * x + 7, 0.5, KEY, labels=np.arange(100)))
  for name in ('lower', 'upper', 'gaussian', 'label_upper'):
    np.testing.assert_allclose(constant[name], 0, atol=1e-5)
  assert constant['noise_std'] == 0.5


def test_codes_of_equal_noise_are_a_channel():
  x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
  labels = np.arange(100) % 2
  channel = noisy.channel(x, 0.5, KEY, labels=labels)
  std = np.full(x.shape, channel.noise_std)
  codes = noisy.stochastic_channel(x, std, KEY, labels=labels)
  assert_close(codes, floats(channel), rtol=1e-4)
  cholesky = std[:, :, None] * np.eye(5, dtype=np.float32)[None]
  full = noisy.stochastic_channel(x, cholesky, KEY, labels=labels)
  assert_close(full, floats(channel), rtol=1e-4)


def test_codes_of_different_noise_equal_numpy(monkeypatch):
  monkeypatch.setattr(noisy, '_CHUNK', 31 * 90 * 3)
  rng = np.random.default_rng(0)
  mean = rng.normal(size=(90, 3))
  cholesky = np.tril(rng.normal(size=(90, 3, 3)))
  diagonal = rng.uniform(0.3, 1, (90, 3))
  cholesky[:, range(3), range(3)] = diagonal
  labels = rng.integers(0, 3, 90)
  noise = np.asarray(jax.random.normal(KEY, mean.shape), np.float64)
  codes = mean + np.einsum('nij,nj->ni', cholesky, noise)
  covariances = np.einsum('nij,nkj->nik', cholesky, cholesky)
  log_densities = np.stack(
    [
      stats.multivariate_normal.logpdf(codes, m, c)
      for m, c in zip(mean, covariances, strict=True)
    ],
    axis=1,
  )
  expected = reference(log_densities, labels)
  # The Gaussian's entropy less the mean one of the codes.
  of_all = np.cov(mean.T, bias=True) + covariances.mean(0)
  expected['gaussian'] = np.linalg.slogdet(of_all)[1] / 2 - np.mean(
    np.linalg.slogdet(covariances)[1] / 2
  )
  channel = noisy.stochastic_channel(mean, cholesky, KEY, labels=labels)
  assert_close(channel, expected)


def test_the_rate_is_above_and_exact_where_the_marginal_is():
  # Means of N(0, 0.75) with noise of variance 0.25: the marginal is N(0, I),
  # so that the rate is the information, 3/2 ln 4 nats, in expectation.
  n, std = 1500, 0.5
  mean = np.random.default_rng(0).normal(size=(n, 3)) * math.sqrt(0.75)
  scale = np.full(mean.shape, std)
  values = floats(noisy.stochastic_channel(mean, scale, KEY))
  truth = 1.5 * math.log(4)
  codes = (jax.numpy.asarray(mean), jax.numpy.asarray(scale))
  rates = np.asarray(bottleneck.rate_diagonal(*codes))
  np.testing.assert_allclose(rates.mean(), truth, atol=3 * rates.std() / n**0.5)
  assert values['lower'] < truth + 3 * values['lower_error']
  assert values['upper'] > truth - 3 * values['upper_error']
  assert values['upper'] - values['lower'] < 0.2
  # Another marginal costs more: by 3 * (m^2 / 2) of a mean that is off by m.
  rates = bottleneck.rate_diagonal(codes[0] + 1, codes[1])
  assert float(rates.mean()) > values['upper'] + 1


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'noise': 0.0}, 'noise must be > 0, got 0.0'),
    ({'features': np.zeros(3)}, r'must be \[n, D\] with n >= 2, got \(3,\)'),
    ({'features': np.zeros((1, 3))}, r'n >= 2, got \(1, 3\)'),
    ({'features': np.full((3, 2), np.nan)}, 'NaN or infinity'),
    ({'labels': np.zeros(4, int)}, r'labels must be \[3\], .* got \(4,\)'),
    ({'labels': np.array([0, -1, 1])}, '1 of 3 labels are below 0'),
  ],
)
def test_what_is_refused(changes, message):
  given = {'features': np.zeros((3, 2)), 'noise': 1.0, 'key': KEY} | changes
  with pytest.raises(ValueError, match=message):
    noisy.channel(**given)


def test_scales_of_another_shape_are_refused():
  with pytest.raises(ValueError, match=r'scale \[n, K\] or .* \(4, 2\)'):
    noisy.stochastic_channel(np.zeros((3, 2)), np.ones((4, 2)), KEY)


def test_monitor_equals_direct_calls():
  # More examples than are encoded at a time.
  rng = np.random.default_rng(0)
  batch = {
    'point': rng.normal(size=(300, 4)).astype(np.float32),
    'label': rng.integers(0, 2, 300).astype(np.int32),
  }
  params = rng.normal(size=(4, 3)).astype(np.float32)

  def encode(params, model_state, batch):
    del model_state
    y = batch['point'] @ params
    return {'y': y, 'map': y.reshape(-1, 3, 1), 'other': y}

  def posterior(variables, batch):
    mean = encode(*variables, batch)['y']
    return mean, jax.numpy.ones_like(mean), jax.numpy.zeros_like(mean)

  def rate(variables, batch, rng, samples):
    del rng, samples
    return bottleneck.rate_diagonal(*posterior(variables, batch))

  measure = monitor.information_monitor(
    encode,
    batch,
    KEY,
    noise=0.5,
    features=('y', 'map'),
    posterior=posterior,
    rate=rate,
  )
  values = {k: float(v) for k, v in measure(params, None).items()}
  y = batch['point'] @ params
  expected = noisy.channel(y, 0.5, KEY, labels=batch['label'])
  codes = noisy.stochastic_channel(y, 1 + 0 * y, KEY, labels=batch['label'])
  for name, channel in (('y', expected), ('map', expected), ('code', codes)):
    for logged, field in (
      ('lower', 'lower'),
      ('upper', 'upper'),
      ('gaussian', 'gaussian'),
      ('lower_ceiling', 'ceiling'),
      ('error', 'lower_error'),
      ('noise_std', 'noise_std'),
      ('label_lower', 'label_lower'),
      ('label_upper', 'label_upper'),
      ('label_entropy', 'label_ceiling'),
      ('label_error', 'label_lower_error'),
    ):
      np.testing.assert_allclose(
        values.pop(f'information/{name}_{logged}'),
        getattr(channel, field),
        rtol=1e-4,
      )
  # KL(N(y, 1) || N(0, 1)) = y^2 / 2, summed over columns.
  np.testing.assert_allclose(
    values.pop('information/code_rate'), (y**2).sum(1).mean() / 2, rtol=1e-5
  )
  assert not values
