"""Every public loss under forward mode, strict promotion and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import samplers
from dim_jax.losses import (
  adversarial,
  bottleneck,
  bounds,
  cpc,
  gradient_penalties,
  kernel_stein,
  large_batches,
  priors,
  spectral,
  structure,
)
from dim_jax.objectives.terms import mutual_information

KEY = jax.random.key(0)
X, SCORES = jnp.ones((6, 3)), jnp.ones(6)
GRID, FRAMES, WEIGHTS = (
  jnp.ones((2, 6, 6, 4)),
  jnp.ones((2, 8, 4)),
  jnp.ones((2, 4, 4)),
)
LOGITS, LABELS = jnp.ones((2, 6, 3)), jnp.arange(6) % 3


def critic(x):
  return x.sum(1)


def log_density(x):
  return -0.5 * jnp.square(x).sum(1)


def of_bounds():
  pair = (jnp.ones((4, 2)), jnp.ones((4, 3)))
  for name, bound in mutual_information.BOUNDS.items():
    masked = functools.partial(bound, where=jnp.ones((4, 3), bool))
    yield name, masked, pair
  for bound in (bounds.infonce, bounds.donsker_varadhan):
    chunks = functools.partial(large_batches.chunked_bound, bound, chunk=2)
    embeddings = (jnp.ones((4, 5)), jnp.ones((4, 9, 5)))
    yield f'{bound.__name__}_in_chunks', chunks, embeddings
  in_parts = large_batches.micro_batched(lambda p, x, _: x @ p, size=2)
  yield 'micro_batched', lambda p, x: in_parts(p, x, KEY), (jnp.ones((3, 2)), X)


def of_priors():
  for name, losses in adversarial.ADVERSARIAL.items():
    yield f'{name}_critic', losses.critic_loss, (SCORES, SCORES)
    yield f'{name}_encoder', losses.encoder_loss, (SCORES, SCORES)
    if losses.penalty is not None:
      penalty = functools.partial(losses.penalty, KEY, critic)
      yield f'{name}_penalty', penalty, (X, X)
  penalty = functools.partial(gradient_penalties.gradient_penalty, critic)
  yield 'gradient_penalty', penalty, (X,)
  vectors = spectral.spectral_vectors(KEY, X)
  penalty = functools.partial(spectral.spectral_penalty, vectors=vectors)
  yield 'spectral_penalty', penalty, (X,)
  yield 'operator_norm', lambda w: spectral.operator_norm(w.dot, X[0])[0], (X,)
  for name in priors.PRIORS:
    draw = functools.partial(priors.sample_prior, KEY, name, X.shape)
    yield name, lambda x, draw=draw: x + draw(), (X,)
  yield 'gaussian_kl', priors.gaussian_kl, (X, X)
  yield 'mmd', priors.mmd, (X, X)
  yield 'stein_prior', priors.stein_prior, (X,)


def of_particles():
  for name, rule in kernel_stein.BANDWIDTHS.items():
    yield name, rule, (X,)
    yield f'{name}_in_blocks', functools.partial(rule, block_size=4), (X,)
  direction = kernel_stein.svgd_direction
  yield 'svgd', direction, (X, X)
  yield 'svgd_in_blocks', functools.partial(direction, block_size=4), (X, X)
  for name in kernel_stein.KERNELS:
    kernel = functools.partial(kernel_stein.ksd, kernel=name)
    yield f'{name}_ksd', kernel, (X, X)
  rows = functools.partial(direction, normalisation='kernel')
  yield 'svgd_over_the_kernel', rows, (X, X)
  yield 'stein_surrogate', kernel_stein.stein_surrogate, (X, X)
  for repulsion in ('all', 'nearest'):
    direction = functools.partial(
      kernel_stein.feature_direction, jnp.sin, repulsion=repulsion
    )
    yield f'features_{repulsion}', direction, (X, X)
  for sampler in (samplers.langevin, samplers.mala, samplers.hmc):
    step = functools.partial(sampler, log_density=log_density, step_size=0.1)
    chain = functools.partial(samplers.run_chain, KEY, transition=step, steps=2)
    yield sampler.__name__, chain, (X,)


def of_cpc():
  indices = cpc.grid_negatives(KEY, GRID.shape, 2, 5)
  grid = functools.partial(cpc.grid_infonce, negative_indices=indices)
  yield 'grid', grid, (GRID, GRID, WEIGHTS)
  yield 'grid_of_all', cpc.grid_infonce, (GRID, GRID, WEIGHTS)
  yield 'sequence_of_all', cpc.sequence_infonce, (FRAMES, FRAMES, WEIGHTS)
  for method in (0, 1, 2):
    indices = cpc.sequence_negatives(KEY, FRAMES.shape, 2, 5, method=method)
    loss = functools.partial(cpc.sequence_infonce, negative_indices=indices)
    yield f'sequence_{method}', loss, (FRAMES, FRAMES, WEIGHTS)


def of_bottleneck():
  yield 'softplus_scale', bottleneck.softplus_scale, (X,)
  yield 'log_variance_scale', bottleneck.log_variance_scale, (X,)
  yield 'rate_diagonal', bottleneck.rate_diagonal, (X, X)
  rate = functools.partial(
    bottleneck.rate_cholesky,
    marginal_mean=jnp.ones(3),
    marginal_chol=jnp.eye(3),
  )
  yield 'rate_cholesky', rate, (X, jnp.ones((6, 3, 3)))
  yield 'log_mixture', bottleneck.log_mixture, (X[None], X, X, SCORES)
  yield 'rate_monte_carlo', bottleneck.rate_monte_carlo, (X, X)
  yield 'rate_excess', lambda x: bottleneck.rate_excess(x, 1.0), (SCORES,)
  for definition in ('uniform', 'zeros'):
    loss = functools.partial(
      bottleneck.distortion,
      labels=LABELS,
      smoothing=0.1,
      smoothing_definition=definition,
    )
    yield f'distortion_{definition}', loss, (LOGITS,)
  yield 'confidence_penalty', bottleneck.confidence_penalty, (LOGITS,)
  loss = lambda x, r: bottleneck.vib_loss(x, LABELS, r, 1e-3)  # noqa: E731
  yield 'vib_loss', loss, (LOGITS, SCORES)
  loss = lambda r, c: structure.coordinate_cross_entropies(  # noqa: E731
    r, c, jnp.asarray([1, 2])
  )
  offsets = (jnp.ones((2, 1, 6, 3)), jnp.ones((2, 1, 6, 5)))
  yield 'coordinates', loss, offsets


ALL = [
  case
  for cases in (of_bounds, of_priors, of_particles, of_cpc, of_bottleneck)
  for case in cases()
]
every_loss = pytest.mark.parametrize(
  ('loss', 'arrays'), [case[1:] for case in ALL], ids=[case[0] for case in ALL]
)


@every_loss
def test_gradients_need_no_implicit_promotion(loss, arrays):
  def both(*arrays):
    value, pull_back = jax.vjp(loss, *arrays)
    return pull_back(jax.tree.map(jnp.zeros_like, value))

  with jax.numpy_dtype_promotion('strict'):
    jax.eval_shape(both, *arrays)


@every_loss
def test_forward_mode(loss, arrays):
  jax.eval_shape(lambda *x: jax.jvp(loss, x, x), *arrays)


@every_loss
def test_each_device_of_a_shard_map_has_its_own(loss, arrays):
  # Arrays that vary over devices: a loop's first values must do so, too.
  mesh = jax.make_mesh(
    (1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = jax.sharding.PartitionSpec('data')

  def own(*arrays):
    return jax.tree.map(lambda x: x[None], loss(*(x[0] for x in arrays)))

  mapped = jax.shard_map(own, mesh=mesh, in_specs=rows, out_specs=rows)
  jax.eval_shape(mapped, *(x[None] for x in arrays))


def test_svgd_in_a_shard_map_is_that_of_each_shard():
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = jax.sharding.PartitionSpec('data')
  x = jax.random.normal(jax.random.key(0), (10, 2))
  direction = lambda x: kernel_stein.svgd_direction(x, -x)  # noqa: E731
  mapped = jax.shard_map(direction, mesh=mesh, in_specs=rows, out_specs=rows)
  expected = jnp.concatenate([direction(x[:5]), direction(x[5:])])
  np.testing.assert_allclose(jax.jit(mapped)(x), expected, rtol=1e-5, atol=1e-6)


def test_shared_negatives_have_the_same_slope_in_either_mode():
  rng = np.random.default_rng(0)
  arrays = [
    jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    for x in (FRAMES, FRAMES, WEIGHTS)
  ]
  tangents = [
    jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in arrays
  ]
  indices = cpc.sequence_negatives(KEY, FRAMES.shape, 2, 5)

  @jax.jit
  def slopes(arrays, tangents):
    loss = lambda *x: cpc.sequence_infonce(*x, indices).loss.sum()  # noqa: E731
    forward = jax.jvp(loss, arrays, tangents)[1]
    gradients = jax.grad(loss, (0, 1, 2))(*arrays)
    pairs = zip(gradients, tangents, strict=True)
    return forward, sum(jnp.vdot(g, t) for g, t in pairs)

  np.testing.assert_allclose(*slopes(arrays, tangents), rtol=1e-5)
