"""Stein's method against double loops in float64 and algebra."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax.losses import kernel_stein
from tests.losses.reference import as_float32

# Compiled: op by op, XLA would compile each of their operations by itself.
svgd_direction = jax.jit(
  kernel_stein.svgd_direction,
  static_argnums=3,
  static_argnames=('block_size', 'normalisation'),
)


ksd = jax.jit(kernel_stein.ksd, static_argnames=('unbiased', 'kernel'))


feature_direction = jax.jit(
  kernel_stein.feature_direction,
  static_argnums=(0, 4),
  static_argnames=('repulsion', 'normalisation'),
)


def points(n, d, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def gaussian_score(x):
  """Of a Gaussian with mean (1, 1, ...) and variance 1 / 2."""
  return -2 * (x - 1)


def loop_direction(x, scores, h, self_term=True):
  """The paper's eq. 8, pair by pair, its kernel's gradient by differences."""
  kernel = lambda a, b: np.exp(-np.sum((a - b) ** 2) / h)  # noqa: E731
  n, d = x.shape
  phi = np.zeros_like(x)
  for i in range(n):
    for j in range(n):
      if i == j and not self_term:
        continue
      # With respect to the particle that is summed over, x_j.
      slope = [
        (kernel(x[j] + e, x[i]) - kernel(x[j] - e, x[i])) / 2e-5
        for e in 1e-5 * np.eye(d)
      ]
      phi[i] += kernel(x[j], x[i]) * scores[j] + slope
  return phi / (n if self_term else n - 1)


def loop_ksd(x, scores, h, unbiased):
  """Eq. 9 with the kernel's derivatives worked out per coordinate."""
  n, d = x.shape
  total = 0.0
  for i in range(n):
    for j in range(n):
      if i == j and unbiased:
        continue
      apart = x[i] - x[j]
      k = np.exp(-(apart @ apart) / h)
      by_x, by_y = -2 / h * apart * k, 2 / h * apart * k
      trace = sum((2 / h - 4 / h**2 * apart[c] ** 2) * k for c in range(d))
      total += scores[i] @ scores[j] * k + scores[i] @ by_y + scores[j] @ by_x
      total += trace
  return total / (n * (n - 1) if unbiased else n * n)


def test_squared_distances_far_from_the_origin():
  x, y = points(7, 3), points(5, 3, 1)
  expected = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
  for shift, tolerance in ((0, 1e-5), (100, 1e-3)):
    # Rounding of the points themselves, 100 * 2^-24, is what remains.
    found = kernel_stein.squared_distances(*as_float32(x + shift, y + shift))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-5)
  assert found.dtype == jnp.float32
  # Copies are at distance 0 exactly, wherever they are.
  copies = jnp.full((4, 3), 123.456)
  np.testing.assert_array_equal(
    kernel_stein.squared_distances(copies, copies), 0
  )


def test_kernel_has_no_factor_of_two():
  # 3-4-5: the squared distance is 25.
  x, y = as_float32([[0.0, 0.0]], [[3.0, 4.0]])
  np.testing.assert_allclose(
    kernel_stein.rbf_kernel(x, y, 50.0), [[math.exp(-0.5)]], rtol=1e-6
  )
  with pytest.raises(ValueError, match='bandwidth is'):
    kernel_stein.rbf_kernel(x, y, 0.0)
  assert jnp.isnan(kernel_stein.rbf_kernel(x, y, jnp.asarray(-1.0))).all()


# Four points on a line, 0 1 3 7: distances of the six pairs are 1 2 3 4 6 7,
# and their squares 1 4 9 16 36 49. The full matrix has 0 x 4 and each square
# twice, sixteen entries of which the 8th and 9th are 4 and 9.
BANDWIDTHS_OF_LINE = {
  'svgd': 3.5**2 / math.log(4),
  'blackjax': 3.5**2 / math.log(4),
  'dartml': 6.5 / math.log(5),
  'pyro': 9 / math.log(5),
}


@pytest.mark.parametrize('name', kernel_stein.BANDWIDTHS)
def test_bandwidth_by_hand(name):
  line = jnp.asarray([[0.0], [1.0], [3.0], [7.0]])
  rule = jax.jit(kernel_stein.BANDWIDTHS[name], static_argnames='block_size')
  for block_size in (None, 3):
    np.testing.assert_allclose(
      rule(line, block_size=block_size), BANDWIDTHS_OF_LINE[name], rtol=1e-6
    )
  # Three points have an odd number of pairs: 1 4 9 -> 4; and of the nine
  # entries 0 0 0 1 1 4 4 9 9 the 5th is 1.
  three = jnp.asarray([[0.0], [1.0], [3.0]])
  odd = {'dartml': 1 / math.log(4), 'pyro': 4 / math.log(4)}
  np.testing.assert_allclose(
    rule(three), odd.get(name, 4 / math.log(3)), rtol=1e-6
  )
  # Nothing to measure: 1.
  assert rule(jnp.ones((1, 1))) == 1
  assert rule(jnp.ones((3, 1))) == 1
  assert jnp.isnan(rule(three.at[0, 0].set(jnp.nan)))
  assert jnp.isnan(rule(three.at[0, 0].set(jnp.inf)))


def test_bandwidth_counts_to_the_median_that_sorting_finds():
  n = 40
  # Of the rounded ones, many are equal.
  for x in (points(n, 3), np.round(points(n, 3, 1))):
    apart = np.sum((x[:, None] - x[None]) ** 2, axis=-1)
    pairs = apart[np.triu_indices(n, 1)]
    expected = {
      'svgd': np.median(np.sqrt(pairs)) ** 2 / math.log(n),
      'dartml': np.median(apart) / math.log(n + 1),
      'pyro': np.sort(pairs)[(len(pairs) - 1) // 2] / math.log(n + 1),
    }
    for name, value in expected.items():
      found = jax.jit(kernel_stein.BANDWIDTHS[name])(
        jnp.asarray(x, jnp.float32)
      )
      np.testing.assert_allclose(found, value, rtol=1e-5)


@pytest.mark.parametrize('block_size', [None, 2])
def test_bandwidth_where_the_compiler_rounds_an_expression_twice(block_size):
  # Unoptimised, two passes over recomputed distances disagreed in a last bit,
  # and the median of these nine squares was that of others.
  x = np.random.default_rng(0).normal(size=(3, 1)) * 3
  expected = np.median((x - x.T) ** 2) / math.log(4)
  rule = functools.partial(kernel_stein.dartml_bandwidth, block_size=block_size)
  jax.config.update('jax_disable_most_optimizations', True)
  try:
    found = jax.jit(rule)(jnp.asarray(x, jnp.float32))
  finally:
    jax.config.update('jax_disable_most_optimizations', False)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('self_term', [True, False])
def test_direction_is_that_of_the_double_loop(self_term):
  x = points(9, 3)
  scores = gaussian_score(x)
  expected = loop_direction(x, scores, 1.7, self_term)
  arrays = as_float32(x, scores)
  for block_size in (None, 4, 20) if self_term else (None, 4):
    found = svgd_direction(*arrays, 1.7, self_term, block_size=block_size)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('self_term', [True, False])
def test_direction_over_the_sum_of_the_kernel(self_term):
  x = points(7, 2)
  scores, h = gaussian_score(x), 1.7
  kernel = np.exp(-np.sum((x[:, None] - x[None]) ** 2, axis=-1) / h)
  rows = kernel.sum(1, keepdims=True) - (0 if self_term else 1)
  count = 7 if self_term else 6
  expected = loop_direction(x, scores, h, self_term) * count / rows
  arrays = as_float32(x, scores)
  for block_size in (None, 3):
    found = svgd_direction(
      *arrays, h, self_term, normalisation='kernel', block_size=block_size
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  found = feature_direction(
    lambda x: x, *arrays, h, self_term, normalisation='kernel'
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('normalisation', ['count', 'kernel'])
def test_far_particles_keep_their_digits_without_themselves(normalisation):
  # Their kernels with others are around 1e-6, which 1 + 1e-6 would round.
  x = points(20, 64)
  scores, h = -x, 8.0
  kernel = np.exp(-np.sum((x[:, None] - x[None]) ** 2, axis=-1) / h)
  np.fill_diagonal(kernel, 0)
  assert 1e-7 < np.median(kernel.sum(1)) < 1e-4
  expected = kernel @ scores
  expected += 2 / h * (x * kernel.sum(1, keepdims=True) - kernel @ x)
  expected /= 19 if normalisation == 'count' else kernel.sum(1, keepdims=True)
  arrays = as_float32(x, scores)
  for found in (
    svgd_direction(*arrays, h, False, normalisation=normalisation),
    feature_direction(
      lambda x: x, *arrays, h, False, normalisation=normalisation
    ),
  ):
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 1e-4


def test_a_lone_particle_moves_as_fast_as_others():
  # Three at 0 and one so far that its kernel with them is 0: its score is 6,
  # of which the mean over 4 particles leaves 6 / 4 and the kernel's sum all.
  x = jnp.asarray([[0.0], [0.0], [0.0], [100.0]])
  scores = jnp.asarray([[1.0], [2.0], [3.0], [6.0]])
  for name, expected in (('count', [1.5] * 4), ('kernel', [2, 2, 2, 6])):
    found = svgd_direction(x, scores, 1.0, normalisation=name)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  # Without itself it has no partner, and stays rather than be 0 / 0.
  found = svgd_direction(x, scores, 1.0, False, normalisation='kernel')[:, 0]
  np.testing.assert_allclose(found, [2.5, 2, 1.5, 0], rtol=1e-6)


def test_refuses_normalisations_without_a_meaning():
  x = jnp.ones((3, 2))
  for direction in (
    kernel_stein.svgd_direction,
    functools.partial(kernel_stein.feature_direction, jnp.sin),
  ):
    with pytest.raises(ValueError, match=r"'rows': accepted are .*'kernel'"):
      direction(x, x, 1.0, normalisation='rows')
  with pytest.raises(ValueError, match="'nearest' sums over no particles"):
    kernel_stein.feature_direction(
      jnp.sin, x, x, 1.0, repulsion='nearest', normalisation='kernel'
    )


def test_direction_defaults_to_the_papers_rule():
  x, scores = as_float32(points(9, 3), points(9, 3, 1))
  bandwidth = jax.jit(kernel_stein.paper_bandwidth)(x)
  expected = svgd_direction(x, scores, bandwidth)
  for block_size in (None, 4):
    np.testing.assert_allclose(
      svgd_direction(x, scores, block_size=block_size),
      expected,
      rtol=1e-5,
      atol=1e-6,
    )


def test_particles_repel():
  # No score: only repulsion, (2 / h) k (x_i - x_j) / n, outwards.
  x = jnp.asarray([[-1.0], [1.0]])
  phi = svgd_direction(x, jnp.zeros_like(x), 4.0)
  size = 2 / 4 * math.exp(-1) * 2 / 2
  np.testing.assert_allclose(phi, [[-size], [size]], rtol=1e-6)


def test_one_particle_climbs():
  x, score = jnp.asarray([[1.0, -2.0]]), jnp.asarray([[3.0, 4.0]])
  for bandwidth in (None, 0.1):
    np.testing.assert_array_equal(svgd_direction(x, score, bandwidth), score)


def test_coincident_particles_move_together():
  # k = 1 and no repulsion: all have the mean of the scores (1, 2, 6) -> 3; the
  # others' mean without their own: 4, 3.5, 1.5.
  x, scores = jnp.full((3, 2), 5.3), jnp.asarray([[1.0], [2.0], [6.0]])
  scores = jnp.tile(scores, (1, 2))
  for bandwidth in (None, 0.5):
    np.testing.assert_allclose(
      svgd_direction(x, scores, bandwidth), np.full((3, 2), 3), rtol=1e-6
    )
    np.testing.assert_allclose(
      svgd_direction(x, scores, bandwidth, False)[:, 0],
      [4, 3.5, 1.5],
      rtol=1e-6,
    )


def test_what_is_not_finite_shows():
  x, scores = as_float32(points(4, 2), points(4, 2, 1))
  for value in (jnp.nan, jnp.inf):
    bad = scores.at[1, 0].set(value)
    assert not jnp.isfinite(svgd_direction(x, bad)[:, 0]).any()
    assert not jnp.isfinite(ksd(x, bad))
    assert jnp.isnan(svgd_direction(x.at[1, 0].set(value), scores)).all()
  assert jnp.isnan(svgd_direction(x, scores, jnp.zeros(()))).all()


@pytest.mark.parametrize(
  'bandwidth', [0, 0.0, -1.0, math.nan, math.inf, np.float32(0)]
)
def test_refuses_a_bandwidth_that_is_not_positive(bandwidth):
  x = jnp.zeros((3, 2))
  for function in (kernel_stein.svgd_direction, kernel_stein.ksd):
    with pytest.raises(ValueError, match='bandwidth is'):
      function(x, x, bandwidth)


def test_a_bandwidth_in_an_array_that_is_not_positive_is_nan():
  x = jnp.arange(6.0).reshape(3, 2)
  for bandwidth in (0.0, -1.0):
    for function in (kernel_stein.svgd_direction, kernel_stein.ksd):
      assert jnp.isnan(function(x, x, jnp.asarray(bandwidth))).all()


def test_refuses_one_particle_without_partner():
  x = jnp.zeros((1, 2))
  with pytest.raises(ValueError, match='at least 2 are needed'):
    kernel_stein.svgd_direction(x, x, self_term=False)
  with pytest.raises(ValueError, match='at least 2 are needed'):
    kernel_stein.ksd(x, x, unbiased=True)
  with pytest.raises(ValueError, match='at least 2 are needed'):
    kernel_stein.feature_direction(lambda x: x, x, x, repulsion='nearest')
  with pytest.raises(ValueError, match='block_size is 0'):
    kernel_stein.svgd_direction(x, x, 1.0, block_size=0)
  with pytest.raises(ValueError, match="'all' and 'nearest'"):
    kernel_stein.feature_direction(lambda x: x, x, x, repulsion='none')


def test_memory_stays_far_below_all_pairs_coordinates():
  n, d = 2000, 50
  arrays = [jax.ShapeDtypeStruct((n, d), jnp.float32)] * 2

  def peak(block_size):
    compiled = svgd_direction.lower(*arrays, block_size=block_size).compile()
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes

  # The pairs alone are n^2; [n, n, d] would be fifty of them. Blocks of 100
  # need a twentieth of the pairs and some arrays [n, d].
  pairs = 4 * n * n
  assert peak(None) < 5 * pairs
  assert peak(100) < pairs / 2


@pytest.mark.parametrize('self_term', [True, False])
def test_features_of_a_linear_map_pull_back(self_term):
  x, scores = points(6, 4), points(6, 4, 1)
  weights = points(4, 2, 2)
  h = 2.3
  # k(x, y) = exp(-||(x - y) W||^2 / h): its gradient by x_j is that by the
  # features times W', so loop over features and multiply.
  repelled = loop_direction(x @ weights, np.zeros((6, 2)), h, self_term)
  apart = (x[:, None] - x[None]) @ weights
  kernel = np.exp(-np.sum(apart**2, axis=-1) / h)
  np.fill_diagonal(kernel, float(self_term))
  expected = kernel @ scores / (6 if self_term else 5) + repelled @ weights.T
  found = feature_direction(
    lambda x: x @ jnp.asarray(weights, jnp.float32),
    *as_float32(x, scores),
    h,
    self_term,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_of_images_by_finite_differences():
  x, scores = points(4, 6).reshape(4, 3, 2), points(4, 6, 1).reshape(4, 3, 2)
  weights = points(6, 2, 2)

  def features(x):
    return np.tanh(x.reshape(len(x), -1) @ weights)

  def kernel(x, y):
    return np.exp(-np.sum((features(x[None]) - features(y[None])) ** 2) / 0.7)

  def slope(x, y):
    """Of the kernel, by x."""
    steps = 1e-5 * np.eye(6).reshape(6, 3, 2)
    found = [(kernel(x + e, y) - kernel(x - e, y)) / 2e-5 for e in steps]
    return np.reshape(found, (3, 2))

  every = np.zeros_like(x)
  nearest = scores.copy()
  for i in range(4):
    others = [j for j in range(4) if j != i]
    for j in others:
      every[i] += (kernel(x[j], x[i]) * scores[j] + slope(x[j], x[i])) / 3
    closest = max(others, key=lambda j: kernel(x[j], x[i]))
    nearest[i] += slope(x[closest], x[i]) / 2

  def jax_features(x):
    return jnp.tanh(x.reshape(len(x), -1) @ jnp.asarray(weights, jnp.float32))

  for repulsion, expected in (('all', every), ('nearest', nearest)):
    found = feature_direction(
      jax_features, *as_float32(x, scores), 0.7, repulsion=repulsion
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_features_that_are_the_particles_change_nothing():
  x, scores = as_float32(points(6, 3), points(6, 3, 1))
  np.testing.assert_allclose(
    feature_direction(lambda x: x, x, scores),
    svgd_direction(x, scores, None, False),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize('unbiased', [False, True])
def test_ksd_is_that_of_the_double_loop(unbiased):
  x = points(8, 3)
  scores = gaussian_score(x)
  expected = loop_ksd(x, scores, 2.1, unbiased)
  found = ksd(*as_float32(x, scores), 2.1, unbiased=unbiased)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('unbiased', [False, True])
def test_imq_ksd_by_differences_of_the_kernel(unbiased):
  # Gorham and Mackey's (c^2 + r^2)^(-1/2) with c^2 = h is ours over sqrt(h);
  # its Stein kernel from differences of the kernel itself, in float64.
  x, c2, step = points(6, 3), 1.7, 1e-4
  scores = gaussian_score(x)
  kernel = lambda a, b: (c2 + np.sum((a - b) ** 2)) ** -0.5  # noqa: E731
  moves, total = step * np.eye(3), 0.0
  for i, a in enumerate(x):
    for j, b in enumerate(x):
      if i == j and unbiased:
        continue
      total += scores[i] @ scores[j] * kernel(a, b)
      for e, of_x, of_y in zip(moves, scores[i], scores[j], strict=True):
        by_x = (kernel(a + e, b) - kernel(a - e, b)) / (2 * step)
        by_y = (kernel(a, b + e) - kernel(a, b - e)) / (2 * step)
        both = kernel(a + e, b + e) + kernel(a - e, b - e)
        both -= kernel(a + e, b - e) + kernel(a - e, b + e)
        total += of_x * by_y + of_y * by_x + both / (4 * step**2)
  expected = math.sqrt(c2) * total / (30 if unbiased else 36)
  found = ksd(*as_float32(x, scores), c2, kernel='imq', unbiased=unbiased)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_imq_sees_particles_that_run_away_where_rbf_does_not():
  # The proof's example: particles far apart, on a sphere of N(0, I) in 50
  # dimensions. Of 'rbf' all k but the own are 0, so the discrepancy is the
  # diagonal's (|s|^2 + 2 d / h) / n and falls with n; of 'imq' it stays.
  n, d, radius = 400, 50, 8.0
  x = points(n, d)
  x *= radius / np.linalg.norm(x, axis=1, keepdims=True)
  x = jnp.asarray(x, jnp.float32)
  diagonal = radius**2 + 2 * d
  np.testing.assert_allclose(ksd(x, -x, 1.0), diagonal / n, rtol=1e-3)
  # At |x|^2 = d a Gaussian's own samples have as much; here 64 are not 50.
  typical = x * math.sqrt(d) / radius
  far, near = (
    float(ksd(y, -y, 1.0, kernel='imq', unbiased=True)) for y in (x, typical)
  )
  assert far > 10 * abs(near)


def test_refuses_an_unknown_kernel():
  x = jnp.ones((3, 2))
  with pytest.raises(ValueError, match=r"'cauchy': accepted are .*'imq'"):
    kernel_stein.ksd(x, x, 1.0, kernel='cauchy')


def test_ksd_is_the_size_of_the_best_direction():
  # <phi, phi> in the kernel's space is mean_i of the Stein operator on phi:
  # s(x_i)'phi(x_i) + div phi(x_i), with the divergence by differences.
  x = points(5, 2)
  scores, h = gaussian_score(x), 1.3

  def phi(y):
    apart = y[None] - x
    k = np.exp(-np.sum(apart**2, axis=1) / h)[:, None]
    return np.mean(k * scores + 2 / h * apart * k, axis=0)

  steps = 1e-5 * np.eye(2)
  operator = [
    scores[i] @ phi(x[i])
    + sum((phi(x[i] + e) - phi(x[i] - e)) @ e / 2e-10 for e in steps)
    for i in range(5)
  ]
  found = ksd(*as_float32(x, scores), h)
  np.testing.assert_allclose(found, np.mean(operator), rtol=1e-4)


def test_ksd_of_exact_samples_has_mean_zero():
  # The U-statistic of samples of p itself, averaged over 300 sets of 30.
  x = 1 + math.sqrt(0.5) * jax.random.normal(jax.random.key(0), (300, 30, 2))

  @jax.jit
  @jax.vmap
  def measure(x, scores):
    return [kernel_stein.ksd(x, scores, 1.0, unbiased=u) for u in (True, False)]

  found, biased = map(np.asarray, measure(x, gaussian_score(x)))
  assert abs(found.mean()) < 4 * found.std() / math.sqrt(300)
  # V has the diagonal on top: E[s's] + 2 d / h = d / variance + 2 d / h = 8,
  # over n; the scores of another distribution differ.
  expected = 8 / 30 + 29 / 30 * found.mean()
  np.testing.assert_allclose(np.mean(biased), expected, rtol=0.03)
  wrong = np.asarray(measure(x, -2 * x)[0])
  assert wrong.mean() > 10 * wrong.std() / math.sqrt(300)


def test_stein_contrastive_divergence_descends_the_discrepancy():
  # For any model f(x; theta): d/dtheta mean_i s(x_i)' sg(phi(x_i)) is half of
  # the gradient of the squared discrepancy, at the same fixed bandwidth.
  x, h = jnp.asarray(points(12, 3), jnp.float32), 1.9
  theta = {
    'w': jnp.asarray(points(3, 4, 1), jnp.float32),
    'b': jnp.asarray(points(1, 4, 2), jnp.float32),
  }

  def score(theta, x):
    energy = lambda x: jnp.sum(jnp.sin(x @ theta['w'] + theta['b']) - x[:, :1])  # noqa: E731
    return jax.grad(energy)(x)

  def derivative(theta):
    s = score(theta, x)
    phi = jax.lax.stop_gradient(kernel_stein.svgd_direction(x, s, h))
    return jnp.mean(jnp.sum(s * phi, axis=1))

  found = jax.jit(jax.grad(derivative))(theta)
  expected = jax.jit(
    jax.grad(lambda t: kernel_stein.ksd(x, score(t, x), h) / 2)
  )(theta)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)


def test_surrogate_moves_its_maker_along_the_direction():
  x, direction = as_float32(points(5, 2), points(5, 2, 1))
  gradient = jax.grad(kernel_stein.stein_surrogate)(x, direction)
  np.testing.assert_allclose(gradient, -direction / 5, rtol=1e-6)
  # Through x = a * z: d/da = -mean <phi, z>; none through the direction.
  gradient = jax.grad(
    lambda a: kernel_stein.stein_surrogate(a * x, a * direction)
  )(2.0)
  expected = -2 * np.mean(np.sum(np.asarray(x * direction), axis=1))
  np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=(0, 1))
def descended(d, self_term):
  """100 particles after 1,000 steps of Adam at 0.05 towards N(0, I)."""
  optimizer = optax.adam(0.05)
  x = 0.5 * jax.random.normal(jax.random.key(0), (100, d)) + 1

  def step(state, _):
    x, memory = state
    phi = kernel_stein.svgd_direction(x, -x, None, self_term)
    updates, memory = optimizer.update(-phi, memory)
    return (optax.apply_updates(x, updates), memory), None

  return jax.lax.scan(step, (x, optimizer.init(x)), None, length=1000)[0][0]


def test_svgd_reaches_mean_and_variance_of_a_gaussian():
  x = np.asarray(descended(1, True))
  np.testing.assert_allclose(x.mean(), 0, atol=0.01)
  # 0.96 is known of 100 particles by the paper's rule.
  np.testing.assert_allclose(x.var(), 0.96, atol=0.02)


def test_svgd_collapses_in_ten_dimensions():
  # 100 particles are known to keep 0.42 of the variance.
  x = np.asarray(descended(10, True))
  np.testing.assert_allclose(x.mean(), 0, atol=0.02)
  np.testing.assert_allclose(x.var(axis=0).mean(), 0.42, atol=0.04)
