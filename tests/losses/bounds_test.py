"""Bounds and f-divergences against closed forms, quadrature and NumPy."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import bounds
from dim_jax.objectives.terms import mutual_information
from tests.losses.reference import as_float32, numerical_gradient, softplus

LOG_2 = math.log(2)
INDEPENDENT_NEGATIVES = 7


def reference_infonce(positive, negative, where):
  """A softmax cross-entropy over materialised [A, P, 1 + K] logits."""
  num_anchors, num_positives = positive.shape
  masked = np.where(where, negative, -np.inf)
  logits = np.concatenate(
    [
      positive[:, :, None],
      np.broadcast_to(
        masked[:, None, :], (num_anchors, num_positives, masked.shape[1])
      ),
    ],
    axis=2,
  )
  top = logits.max(axis=2, keepdims=True)
  log_sum = np.log(np.exp(logits - top).sum(axis=2)) + top[:, :, 0]
  cross_entropy = log_sum - positive
  log_choices = np.log(where.sum(axis=1) + 1)
  return np.mean(log_choices[:, None] - cross_entropy)


def reference_donsker_varadhan(positive, negative, where):
  return np.mean(positive) - np.log(np.mean(np.exp(negative[where])))


def of_terms(positive_term, negative_term):
  """E_p[positive_term(T)] - E_q[negative_term(T)], of the real negatives."""

  def reference(positive, negative, where):
    value = np.mean(positive_term(positive))
    return value - np.mean(negative_term(negative[where]))

  return reference


# Definitions in NumPy; float64, masked entries deleted. The last five are the
# duals of f-GAN, tables 1, 2 and 6 (Pearson's conjugate over r >= 0).
DEFINITIONS = {
  'infonce': reference_infonce,
  'jsd': of_terms(
    lambda t: LOG_2 - softplus(-t), lambda t: softplus(t) - LOG_2
  ),
  'donsker_varadhan': reference_donsker_varadhan,
  'nwj': of_terms(lambda t: t, lambda t: np.exp(t - 1)),
  'gan': of_terms(lambda t: -softplus(-t), softplus),
  'kl': of_terms(lambda t: t, lambda t: np.exp(t - 1)),
  'reverse_kl': of_terms(lambda t: -np.exp(-t), lambda t: t - 1),
  'squared_hellinger': of_terms(
    lambda t: 1 - np.exp(-t), lambda t: np.exp(t) - 1
  ),
  'chi_squared': of_terms(
    lambda t: t, lambda t: np.where(t >= -2, t + t**2 / 4, -1.0)
  ),
}
# name -> (bound, its definition)
BOUNDS = {
  name: (jax.jit(bound), DEFINITIONS[name])
  for name, bound in mutual_information.BOUNDS.items()
}
every_bound = pytest.mark.parametrize('name', list(BOUNDS))


def scores_of(seed, num_anchors=5, num_positives=3, num_negatives=7):
  """Positives, negatives and an uneven mask, in float64."""
  rng = np.random.default_rng(seed)
  positive = rng.normal(1.0, 1.5, (num_anchors, num_positives))
  negative = rng.normal(-0.5, 1.5, (num_anchors, num_negatives))
  # Anchor 0 keeps all its negatives, the last one only its first.
  kept = np.linspace(num_negatives, 1, num_anchors).astype(int)
  where = np.arange(num_negatives)[None, :] < kept[:, None]
  return positive, negative, where


# A constant critic knows nothing. Every bound but NWJ is then 0; NWJ is
# c - exp(c - 1), so -1/e at 0, and 0 at its best constant 1.
@pytest.mark.parametrize(
  ('name', 'constant', 'expected'),
  [
    ('infonce', 0.0, 0.0),
    ('infonce', 3.5, 0.0),
    ('jsd', 0.0, 0.0),
    ('donsker_varadhan', 0.0, 0.0),
    ('donsker_varadhan', -3.5, 0.0),
    ('nwj', 0.0, -1 / math.e),
    ('nwj', 1.0, 0.0),
  ],
)
def test_constant_critic(name, constant, expected):
  bound, _ = BOUNDS[name]
  value = bound(jnp.full((4, 2), constant), jnp.full((4, 3), constant))
  np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'expected'),
  # The positive among 7 negatives is certain: ln 8. Both softplus vanish.
  [('infonce', math.log(8)), ('jsd', 2 * LOG_2)],
)
def test_perfect_critic_reaches_the_ceiling(name, expected):
  bound, _ = BOUNDS[name]
  value = bound(
    jnp.full((4, 2), 100.0), jnp.full((4, INDEPENDENT_NEGATIVES), -100.0)
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(
    bounds.ceiling(name, INDEPENDENT_NEGATIVES), expected, rtol=1e-12
  )


@every_bound
def test_equals_its_definition_where_masked_negatives_are_deleted(name):
  bound, reference = BOUNDS[name]
  positive, negative, where = scores_of(seed=0)
  # Its exponentials nearly cancel the rest.
  rtol = 5e-6 if name == 'reverse_kl' else 2e-6
  value = bound(*as_float32(positive, negative), where=jnp.asarray(where))
  np.testing.assert_allclose(
    value, reference(positive, negative, where), rtol=rtol
  )
  # Without a mask every entry is real.
  every = np.ones_like(where)
  np.testing.assert_allclose(
    bound(*as_float32(positive, negative)),
    reference(positive, negative, every),
    rtol=rtol,
  )


@every_bound
def test_gradient_is_that_of_the_definition(name):
  bound, reference = BOUNDS[name]
  positive, negative, where = scores_of(seed=1)
  to_positive, to_negative = jax.grad(bound, argnums=(0, 1))(
    *as_float32(positive, negative), where=jnp.asarray(where)
  )
  np.testing.assert_allclose(
    to_positive,
    numerical_gradient(lambda p: reference(p, negative, where), positive),
    atol=2e-6,
  )
  np.testing.assert_allclose(
    to_negative,
    numerical_gradient(lambda n: reference(positive, n, where), negative),
    atol=2e-6,
  )


@every_bound
@pytest.mark.parametrize('junk', [np.inf, -np.inf, np.nan, 1e30])
def test_masked_entries_have_no_effect(name, junk):
  bound, _ = BOUNDS[name]
  positive, negative, where = scores_of(seed=2)
  dirty = np.where(where, negative, junk)
  mask = jnp.asarray(where)
  evaluate = functools.partial(
    jax.value_and_grad(bound, argnums=(0, 1)), where=mask
  )
  clean = evaluate(*as_float32(positive, negative))
  # Bitwise: not merely small.
  chex.assert_trees_all_equal(evaluate(*as_float32(positive, dirty)), clean)
  _, (_, to_negative) = clean
  np.testing.assert_array_equal(np.asarray(to_negative)[~where], 0)
  # Pearson's conjugate is flat below -2.
  sloped = where & (negative > -2) if name == 'chi_squared' else where
  assert np.all(np.asarray(to_negative)[sloped] != 0)


@every_bound
@pytest.mark.parametrize('positive', [-1e4, 0.0, 1e4])
@pytest.mark.parametrize('negative', [-1e4, 0.0, 1e4])
def test_extreme_scores_are_finite(name, positive, negative):
  bound, _ = BOUNDS[name]
  value, gradients = jax.value_and_grad(bound, argnums=(0, 1))(
    jnp.full((3, 2), positive), jnp.full((3, 5), negative)
  )
  chex.assert_tree_all_finite((value, gradients))
  if negative > positive:
    # The critic is as wrong as can be, and must learn that from both terms.
    assert float(gradients[0].min()) > 0
    assert float(gradients[1].max()) < 0


@pytest.mark.parametrize('name', ['infonce', 'jsd', 'donsker_varadhan', 'nwj'])
def test_gaussian_information(name):
  # x and y standard Gaussians with correlation rho: the information is
  # -ln(1 - rho^2) / 2, and the pointwise information ln r is below. Its s.d. is
  # rho, so the mean of n pairs is known to rho / sqrt(n) = 0.6 / 32 = 0.019.
  rho, num_examples = 0.6, 1024
  truth = -math.log(1 - rho**2) / 2

  def log_ratio(x, y):
    error = (x**2 + y**2) * rho**2 - 2 * rho * x * y
    return truth - error / (2 * (1 - rho**2))

  if name == 'jsd':
    # Not the information but 2 JSD, E_q of r ln(2r/(1+r)) + ln(2/(1+r)).
    grid = np.linspace(-7, 7, 561)
    x, y = grid[:, None], grid[None, :]
    area = (grid[1] - grid[0]) ** 2
    density = np.exp(-(x**2 + y**2) / 2) / (2 * np.pi)
    log_r = log_ratio(x, y)
    integrand = np.exp(log_r) * (LOG_2 - softplus(-log_r))
    integrand += LOG_2 - softplus(log_r)
    jensen_shannon = np.sum(density * integrand) * area
    assert 0 < jensen_shannon < truth  # It is a lower bound of the information.
    truth_of_bound = jensen_shannon
  else:
    truth_of_bound = truth

  rng = np.random.default_rng(3)
  x = rng.normal(size=num_examples)
  y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=num_examples)
  scores = log_ratio(x[:, None], y[None, :])[:, :, None]
  # Each bound has its own best critic: NWJ's is 1 + ln r.
  shift = 1.0 if name == 'nwj' else 0.0
  bound, _ = BOUNDS[name]
  positive, negative, where = bounds.split_pairs(
    jnp.asarray(scores + shift, jnp.float32)
  )
  best = float(bound(positive, negative, where=where))
  np.testing.assert_allclose(best, truth_of_bound, atol=2.5 * 0.019)
  # A worse critic gives less: half the log-ratio, on the same pairs.
  worse = float(
    bound(
      (positive - shift) / 2 + shift,
      (negative - shift) / 2 + shift,
      where=where,
    )
  )
  assert worse < best - 0.01


def test_infonce_ignores_what_depends_on_the_anchor_alone():
  positive, negative = as_float32(*scores_of(seed=4)[:2])
  offset = jnp.arange(5.0)[:, None] * 10
  np.testing.assert_allclose(
    bounds.infonce(positive + offset, negative + offset),
    bounds.infonce(positive, negative),
    rtol=1e-5,
  )


def test_infonce_anchor_without_negatives_contributes_nothing():
  positive, negative, where = scores_of(seed=5, num_anchors=2)
  where[1] = False
  evaluate = jax.value_and_grad(bounds.infonce, argnums=(0, 1))
  # Not even an intermediate NaN, or nobody could debug with this switch on.
  with jax.debug_nans(True):
    value, gradients = evaluate(
      *as_float32(positive, negative), where=jnp.asarray(where)
    )
  # Half of the anchors contribute ln(0 + 1) = 0.
  alone = reference_infonce(positive[:1], negative[:1], where[:1])
  np.testing.assert_allclose(value, alone / 2, rtol=2e-6)
  chex.assert_tree_all_finite(gradients)
  for gradient in gradients:
    np.testing.assert_array_equal(gradient[1], 0)


def test_infonce_never_materialises_all_pairs_of_positives_and_negatives():
  num_images, num_locals = 64, 64
  scores = jax.ShapeDtypeStruct(
    (num_images, num_images, num_locals), jnp.float32
  )

  def ours(scores):
    positive, negative, where = bounds.split_pairs(scores)
    return bounds.infonce(positive, negative, where=where)

  def materialised(scores):
    positive, negative, where = bounds.split_pairs(scores)
    negative = jnp.where(where, negative, -jnp.inf)[:, None, :]
    shape = (num_images, num_locals, num_images * num_locals)
    logits = jnp.concatenate(
      [positive[:, :, None], jnp.broadcast_to(negative, shape)], axis=2
    )
    return jnp.mean(jax.nn.log_softmax(logits, axis=2)[:, :, 0])

  def peak(function):
    compiled = jax.jit(jax.value_and_grad(function)).lower(scores).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # 64 * 64 * 4097 logits of 4 bytes, at least once.
  assert peak(materialised) >= 64 * 64 * 4097 * 4
  assert peak(ours) <= peak(materialised) / 10


@pytest.mark.parametrize('num_globals', [1, 2])
def test_split_pairs(num_globals):
  num_images, num_locals = 3, 2
  shape = (num_images * num_globals, num_images, num_locals)
  scores = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
  positive, negative, where = bounds.split_pairs(jnp.asarray(scores))
  for anchor in range(shape[0]):
    image = anchor // num_globals
    others = [j for j in range(num_images) if j != image]
    np.testing.assert_array_equal(positive[anchor], scores[anchor, image])
    np.testing.assert_array_equal(
      np.asarray(negative[anchor])[np.asarray(where[anchor])],
      scores[anchor, others].reshape(-1),
    )


@every_bound
def test_split_pairs_are_the_arguments_of_every_bound(name):
  bound, _ = BOUNDS[name]
  scores = jnp.arange(27, dtype=jnp.float32).reshape(3, 3, 3)
  positive, negative, where = bounds.split_pairs(scores)
  assert bound(*bounds.split_pairs(scores)) == bound(
    positive, negative, where=where
  )


def test_split_pairs_scores_do_not_leak():
  # A score of one image may overflow; another's positives stay as they are.
  scores = jnp.zeros((3, 3, 2)).at[0, 1].set(jnp.inf).at[1, 0].set(jnp.nan)
  positive, _, _ = bounds.split_pairs(scores)
  np.testing.assert_array_equal(positive, 0)


@every_bound
def test_several_globals_are_the_mean_of_each(name):
  # M anchors an image have equally many negatives each, so for a mean of terms
  # the bound is the mean over the M of the bound of one. Donsker-Varadhan's
  # exponentials average over all of them inside the logarithm.
  num_images, num_globals = 4, 3
  rng = np.random.default_rng(6)
  scores = rng.normal(size=(num_images, num_globals, num_images, 2))
  bound, reference = BOUNDS[name]

  @jax.jit
  def evaluate(scores):
    positive, negative, where = bounds.split_pairs(scores)
    return bound(positive, negative, where=where)

  together = evaluate(
    jnp.asarray(
      scores.reshape(num_images * num_globals, num_images, 2), jnp.float32
    )
  )
  own = np.eye(num_images, dtype=bool)
  if name == 'donsker_varadhan':
    swapped = scores.transpose(0, 2, 1, 3)  # [image, image, global, local]
    expected = reference(swapped[own], swapped[~own], np.ones((12, 3, 2), bool))
  else:
    expected = np.mean(
      [
        evaluate(jnp.asarray(scores[:, m], jnp.float32))
        for m in range(num_globals)
      ]
    )
  np.testing.assert_allclose(together, expected, rtol=1e-5)


def test_split_pairs_rejects_what_has_no_negatives():
  with pytest.raises(ValueError, match='at least 2 images'):
    bounds.split_pairs(jnp.zeros((1, 1, 4)))


def test_split_pairs_rejects_anchors_that_do_not_divide():
  with pytest.raises(ValueError, match='4 anchors for 3 images'):
    bounds.split_pairs(jnp.zeros((4, 3, 2)))


def test_ceiling():
  # DIM at N = L = 64: 63 other images of 64 locals.
  np.testing.assert_allclose(
    bounds.ceiling('infonce', 63 * 64), math.log(4033), rtol=1e-12
  )
  assert bounds.ceiling('gan', 1) == 0
  assert bounds.ceiling('squared_hellinger', 1) == 2
  for name in ('donsker_varadhan', 'nwj', 'kl', 'reverse_kl', 'chi_squared'):
    assert bounds.ceiling(name, 5) is None
  with pytest.raises(ValueError, match=r"'mine'.*'infonce'"):
    bounds.ceiling('mine', 5)
  with pytest.raises(ValueError, match='at least one'):
    bounds.ceiling('infonce', 0)


def test_log_linear_extension():
  limit = 2.0
  scores = jnp.array([-1e4, -3.0, 2.0, 3.0, 1e4])
  # Below the limit the identity; above 2 + ln(1 + t - 2).
  expected = [-1e4, -3.0, 2.0, 2 + LOG_2, 2 + math.log(9999)]
  np.testing.assert_allclose(
    bounds.log_linear_extension(scores, limit), expected, rtol=1e-6
  )
  # exp of it is linear above the limit: e^2 (t - 1), with slope e^2.
  slope = jax.vmap(
    jax.grad(lambda t: jnp.exp(bounds.log_linear_extension(t, limit)))
  )
  np.testing.assert_allclose(
    slope(jnp.array([2.0, 3.0, 1e4])), math.exp(2), rtol=1e-4
  )


def test_nwj_is_exact_where_the_exponential_is_safe():
  # e^(39 - 1) is far from float32's limit, so the score must not be bent.
  np.testing.assert_allclose(
    bounds.nwj(jnp.zeros((1, 1)), jnp.full((1, 1), 39.0)),
    -math.exp(38),
    rtol=1e-5,
  )


@every_bound
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_scores_are_computed_in_float32(name, dtype):
  bound, _ = BOUNDS[name]
  positive, negative, where = scores_of(seed=7, num_negatives=300)
  positive, negative = (jnp.asarray(x, dtype) for x in (positive, negative))
  mask = jnp.asarray(where)
  value = bound(positive, negative, where=mask)
  assert value.dtype == jnp.float32
  np.testing.assert_array_equal(
    value,
    bound(
      positive.astype(jnp.float32), negative.astype(jnp.float32), where=mask
    ),
  )


@every_bound
def test_jit_and_vmap(name):
  bound, reference = BOUNDS[name]
  batch = [scores_of(seed) for seed in (8, 9)]
  positive, negative, where = (jnp.stack(x) for x in zip(*batch, strict=True))
  mapped = jax.jit(jax.vmap(lambda p, n, w: bound(p, n, where=w)))
  np.testing.assert_allclose(
    mapped(*as_float32(positive, negative), where),
    [reference(*case) for case in batch],
    rtol=2e-6,
  )


@every_bound
@pytest.mark.parametrize(
  ('shapes', 'culprit'),
  [
    (((4,), (4, 3), None), 'positive'),
    (((4, 1), (4, 3, 2), None), 'negative'),
    (((4, 1), (5, 3), None), 'anchors'),
    (((4, 1), (4, 3), (4, 1)), 'where'),
  ],
)
def test_wrong_shapes_name_the_argument(name, shapes, culprit):
  bound, _ = BOUNDS[name]
  positive, negative, where = shapes
  with pytest.raises(AssertionError, match=rf'{culprit}( differ)?\.'):
    bound(
      jnp.zeros(positive),
      jnp.zeros(negative),
      where=None if where is None else jnp.ones(where, bool),
    )


def test_a_mask_of_numbers_is_refused():
  with pytest.raises(AssertionError):
    bounds.jsd(jnp.zeros((2, 1)), jnp.zeros((2, 3)), where=jnp.ones((2, 3)))


def test_negatives_are_counted_beyond_int32():
  # Not computed: a mask of 3 billion.
  where = jax.ShapeDtypeStruct((3000, 1_000_000), bool)
  assert jax.eval_shape(bounds._count, where).dtype == jnp.float32
  assert bounds._count(jnp.ones((3, 5), bool).at[0, 0].set(False)) == 14
