"""Energy models against closed forms of a small RBM, in float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dim_jax.networks import energies, generators
from dim_jax.objectives import energy_model
from dim_jax.training import step as step_lib

N, D, HIDDEN = 8, 3, 2
POINTS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
LATENT = np.random.default_rng(1).normal(size=(N, 4)).astype(np.float32)
# Most programs here run once: compiling is what takes the time.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


@pytest.fixture(autouse=True)
def _exact_products():
  # Accelerators multiply float32 at a lower precision unless told.
  with jax.default_matmul_precision('highest'):
    yield


def make_config(**changes):
  defaults = {
    'energy': 'rbm',
    'hidden': HIDDEN,
    'generator': generators.MLPGenerator((D,), units=()),
    'latent_size': LATENT.shape[1],
  }
  return energy_model.Config(**(defaults | changes))


def make_params(seed=2):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(0, 0.7, shape), jnp.float32)

  return {
    'energy': {
      'weights': normal(D, HIDDEN),
      'visible': normal(D),
      'hidden': normal(HIDDEN),
    },
    'generator': {
      'output': {'kernel': normal(LATENT.shape[1], D), 'bias': normal(D)}
    },
  }


def only(params, config):
  if config.negatives in ('generator', 'mixture'):
    return params
  return {'energy': params['energy']}


@functools.cache
def compiled(**changes):
  objective = energy_model.make(make_config(**changes))
  return jit(jax.value_and_grad(objective.loss, has_aux=True))


def evaluate(params=None, state=None, points=POINTS, **changes):
  """The metrics, the new state and the gradients."""
  params = only(params or make_params(), make_config(**changes))
  (loss, (metrics, state)), grads = compiled(**changes)(
    params, state or {}, {'point': points}, jax.random.key(0)
  )
  return metrics | {'loss': loss}, state, grads


def wide(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def rbm_score(params, x):
  y = x @ params['weights'] + params['hidden']
  return params['visible'] - x + np.tanh(y) @ params['weights'].T


def rbm_f(params, x):
  y = x @ params['weights'] + params['hidden']
  return (
    x @ params['visible'] - (x**2).sum(1) / 2 + np.log(2 * np.cosh(y)).sum(1)
  )


def rbm_gradient(params, x):
  """The mean gradient of f by the parameters."""
  h = np.tanh(x @ params['weights'] + params['hidden'])
  return {
    'weights': x.T @ h / len(x),
    'visible': x.mean(0),
    'hidden': h.mean(0),
  }


def contrast(params, negatives, data, scale=1.0):
  return jax.tree.map(
    lambda a, b: scale * (a - b),
    rbm_gradient(params, negatives),
    rbm_gradient(params, data),
  )


def finite_differences(fn, params, step=1e-5):
  """Of fn by each number of a dictionary of arrays."""
  slopes = {}
  for name, values in params.items():
    slopes[name] = np.zeros_like(values)
    for index in np.ndindex(values.shape):
      shift = np.zeros_like(values)
      shift[index] = step
      high = fn(params | {name: values + shift})
      low = fn(params | {name: values - shift})
      slopes[name][index] = (high - low) / (2 * step)
  return slopes


def tree_close(a, b, **tolerances):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b
  )


def assert_finite(tree):
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def direction(
  params,
  x,
  h,
  *,
  kernel='data',
  repulsion='all',
  self_term=False,
  normalisation='count',
):
  """phi of each particle, one pair at a time."""
  scores = rbm_score(params, x)
  if repulsion == 'none':
    return scores
  hidden = np.tanh(x @ params['weights'] + params['hidden'])
  features = hidden if kernel == 'features' else x
  n, phi = len(x), np.zeros_like(x)

  def push(i, j):
    """The gradient of k(x_j, x_i) by x_j."""
    apart = features[i] - features[j]
    slope = 2 / h * apart * np.exp(-(apart**2).sum() / h)
    if kernel == 'features':
      # d tanh(x B + c) / dx = B diag(1 - tanh^2).
      slope = params['weights'] @ ((1 - hidden[j] ** 2) * slope)
    return slope

  for i in range(n):
    gaps = ((features - features[i]) ** 2).sum(1)
    if repulsion == 'nearest':
      gaps[i] = np.inf
      phi[i] = scores[i] + push(i, gaps.argmin()) / 2
      continue
    others = [j for j in range(n) if j != i or self_term]
    for j in others:
      phi[i] += np.exp(-gaps[j] / h) * scores[j] + push(i, j)
    if normalisation == 'kernel':
      phi[i] /= np.exp(-gaps[others] / h).sum()
    else:
      phi[i] /= len(others)
  return phi


def squared_discrepancy(params, x, h):
  """KSD^2 over all pairs, from the definition of the Stein kernel."""
  scores, total = rbm_score(params, x), 0.0
  for a, b in itertools.product(range(len(x)), repeat=2):
    r = x[a] - x[b]
    k = np.exp(-(r @ r) / h)
    by_a, by_b = -2 / h * r * k, 2 / h * r * k
    trace = k * (2 * D / h - 4 * (r @ r) / h**2)
    total += scores[a] @ scores[b] * k + scores[a] @ by_b + scores[b] @ by_a
    total += trace
  return total / len(x) ** 2


def test_stein_cd_tends_to_half_the_gradient_of_the_squared_discrepancy():
  params = wide(make_params()['energy'])
  x, h = POINTS.astype(np.float64), 2.5
  expected = finite_differences(
    lambda p: 0.5 * squared_discrepancy(p, x, h), params
  )
  errors = []
  for step in (0.04, 0.02):
    _, _, grads = evaluate(
      negatives='stein', stein_step=step, bandwidth=h, self_term=True
    )
    errors.append(
      jax.tree.map(lambda a, b: np.asarray(a) - b, grads['energy'], expected)
    )
  # The error is c step + O(step^2): twice the smaller one less the larger one
  # leaves the second order.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(2 * b - a, 0, atol=2e-3), *errors
  )
  largest = max(np.abs(x).max() for x in jax.tree.leaves(errors[0]))
  smaller = max(np.abs(x).max() for x in jax.tree.leaves(errors[1]))
  assert 0.4 < smaller / largest < 0.6


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'kernel': 'features'},
    {'repulsion': 'nearest'},
    {'repulsion': 'none'},
    {'normalisation': 'kernel'},
  ],
  ids=['data', 'features', 'nearest', 'none', 'over the kernel'],
)
def test_generator_follows_the_direction_and_energy_the_contrast(
  changes, monkeypatch
):
  monkeypatch.setitem(
    energy_model.LATENTS, 'normal', lambda rng, shape: jnp.asarray(LATENT)
  )
  params = make_params()
  metrics, _, grads = evaluate(
    params, negatives='generator', latent='normal', bandwidth=1.5, **changes
  )
  p, data = wide(params), POINTS.astype(np.float64)
  latent = LATENT.astype(np.float64)
  layer = p['generator']['output']
  made = latent @ layer['kernel'] + layer['bias']
  phi = direction(p['energy'], made, 1.5, **changes)
  # d/dW of -mean_i phi_i . (z_i W + b): each group has its own terms alone.
  expected = {
    'kernel': -latent.T @ phi / N,
    'bias': -phi.mean(0),
  }
  tree_close(grads['generator']['output'], expected, rtol=1e-4, atol=1e-5)
  tree_close(
    grads['energy'], contrast(p['energy'], made, data), rtol=1e-4, atol=1e-5
  )
  surrogate = -(phi * made).sum(1).mean()
  np.testing.assert_allclose(
    metrics['generator/surrogate'], surrogate, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    metrics['generator/spread'], made.std(0).mean(), rtol=1e-5
  )
  gap = rbm_f(p['energy'], data).mean() - rbm_f(p['energy'], made).mean()
  np.testing.assert_allclose(metrics['energy/gap'], gap, rtol=1e-4)


def test_a_gan_has_the_gradients_of_its_two_players(monkeypatch):
  monkeypatch.setitem(
    energy_model.LATENTS, 'normal', lambda rng, shape: jnp.asarray(LATENT)
  )
  params = make_params()
  metrics, _, grads = evaluate(
    params,
    negatives='generator',
    latent='normal',
    repulsion='none',
    contrast='jsd',
  )
  p, data = wide(params), POINTS.astype(np.float64)
  latent = LATENT.astype(np.float64)
  layer = p['generator']['output']
  made = latent @ layer['kernel'] + layer['bias']

  # Goodfellow et al. 2014: -E log D(x) - E log(1 - D(G)), D = 1 / (1 + e^-f),
  # for the discriminator, -E log D(G) for the generator.
  def discriminator(energy):
    of_data, of_made = (
      1 / (1 + np.exp(-rbm_f(energy, x))) for x in (data, made)
    )
    return -np.log(of_data).mean() - np.log(1 - of_made).mean()

  tree_close(
    grads['energy'],
    finite_differences(discriminator, p['energy']),
    rtol=1e-3,
    atol=1e-4,
  )

  def generator(layer):
    f = rbm_f(p['energy'], latent @ layer['kernel'] + layer['bias'])
    return -np.log(1 / (1 + np.exp(-f))).mean()

  tree_close(
    grads['generator']['output'],
    finite_differences(generator, layer),
    rtol=1e-3,
    atol=1e-4,
  )
  np.testing.assert_allclose(
    metrics['generator/loss'], generator(layer), rtol=1e-4
  )
  # The loss is minus the JSD, 2 log 2 below the cross-entropies.
  np.testing.assert_allclose(
    metrics['loss'] - metrics['generator/loss'],
    discriminator(p['energy']) - 2 * math.log(2),
    rtol=1e-3,
  )


def test_mixture_takes_either_sort_of_negatives(monkeypatch):
  monkeypatch.setitem(
    energy_model.LATENTS, 'normal', lambda rng, shape: jnp.asarray(LATENT)
  )
  changes = {'negatives': 'mixture', 'latent': 'normal', 'bandwidth': 1.5}
  config = make_config(**changes, stein_step=0.3, negative_weight=0.4)
  params = make_params()
  p, x = wide(params), POINTS.astype(np.float64)
  layer = p['generator']['output']
  made = LATENT.astype(np.float64) @ layer['kernel'] + layer['bias']
  moved = x + 0.3 * direction(p['energy'], x, 1.5)
  objective = energy_model.make(config)
  grad = jit(jax.grad(objective.loss, has_aux=True))
  seen = []
  for seed in range(12):
    grads, (metrics, _) = grad(
      params, {}, {'point': POINTS}, jax.random.key(seed)
    )
    stepped = bool(
      abs(metrics['energy/negatives'] - rbm_f(p['energy'], moved).mean()) < 1e-4
    )
    seen.append(stepped)
    if stepped:
      expected = contrast(p['energy'], moved, x, 1 / 0.3)
    else:
      # A weight holds back the generator's negatives, not SteinCD's step.
      expected = jax.tree.map(
        lambda negative, positive: 0.4 * negative - positive,
        rbm_gradient(p['energy'], made),
        rbm_gradient(p['energy'], x),
      )
    tree_close(grads['energy'], expected, rtol=1e-4, atol=1e-5)
    # The generator moves in each step.
    phi = direction(p['energy'], made, 1.5)
    np.testing.assert_allclose(
      grads['generator']['output']['bias'], -phi.mean(0), rtol=1e-4, atol=1e-5
    )
  # All of twelve fair coins agree once in 2048 times.
  assert set(seen) == {True, False}


def test_cd_climbs_from_the_data_and_penalises_the_norm():
  metrics, state, grads = evaluate(
    steps=2, step_size=0.2, noise=0.0, energy_penalty=0.3
  )
  p, data = wide(make_params()['energy']), POINTS.astype(np.float64)
  x = data
  for _ in range(2):
    x = x + 0.2 * rbm_score(p, x)

  def penalty(p):
    return (rbm_f(p, data) ** 2).mean() + (rbm_f(p, x) ** 2).mean()

  np.testing.assert_allclose(metrics['energy/penalty'], penalty(p), rtol=1e-4)
  slopes = finite_differences(lambda p: 0.3 * penalty(p), p)
  expected = jax.tree.map(np.add, contrast(p, x, data), slopes)
  tree_close(grads['energy'], expected, rtol=1e-4, atol=1e-4)
  assert metrics['energy/temperature'] == 0
  assert metrics['energy/acceptance'] == 1
  assert state == {}


def test_exact_gradient_is_that_of_the_log_likelihood():
  metrics, _, grads = evaluate(negatives='exact')
  p, data = wide(make_params()['energy']), POINTS.astype(np.float64)

  def log_likelihood(p):
    logits = []
    for state in itertools.product((-1.0, 1.0), repeat=HIDDEN):
      mean = p['visible'] + p['weights'] @ np.array(state)
      logits.append(p['hidden'] @ np.array(state) + mean @ mean / 2)
    log_z = np.logaddexp.reduce(logits) + D / 2 * math.log(2 * math.pi)
    return rbm_f(p, data).mean() - log_z

  np.testing.assert_allclose(
    metrics['energy/log_likelihood'], log_likelihood(p), rtol=1e-5
  )
  np.testing.assert_allclose(metrics['loss'], -log_likelihood(p), rtol=1e-5)
  expected = finite_differences(lambda p: -log_likelihood(p), p)
  tree_close(grads['energy'], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('transition', ['mala', 'gibbs'])
def test_cd_from_the_models_own_samples_has_no_gradient(transition):
  params, count = make_params(), 4000
  x = jit(energies.RBM.sample, static_argnums=2)(
    params['energy'], jax.random.key(0), count
  )
  metrics, _, grads = evaluate(
    params, points=x, transition=transition, steps=3, step_size=0.3
  )
  # The difference of two means of as many samples; tanh has a variance < 1.
  error = math.sqrt(2 / count)
  assert np.abs(grads['energy']['hidden']).max() < 5 * error
  bound = 5 * error * np.asarray(x).std(0)
  assert (np.abs(grads['energy']['visible']) < bound).all()
  assert 0.5 < metrics['energy/acceptance'] <= 1
  assert metrics['energy/temperature'] == 1


def test_persistent_chains_go_on():
  changes = {'negatives': 'persistent', 'step_size': 0.1, 'noise': 0.0}
  chains = np.random.default_rng(4).normal(size=(5, D)).astype(np.float32)
  _, state, grads = evaluate(state={'chains': chains}, **changes)
  p, x = wide(make_params()['energy']), chains.astype(np.float64)
  moved = x + 0.1 * rbm_score(p, x)
  np.testing.assert_allclose(state['chains'], moved, rtol=1e-4, atol=1e-5)
  tree_close(
    grads['energy'],
    contrast(p, moved, POINTS.astype(np.float64)),
    rtol=1e-4,
    atol=1e-5,
  )
  # A chain that was lost is seen, not hidden.
  chains[0] = np.inf
  metrics, _, _ = evaluate(state={'chains': chains}, **changes)
  assert not np.isfinite(metrics['energy/negatives'])


def test_buffer_moves_some_samples_and_keeps_the_rest():
  chains = np.random.default_rng(4).normal(size=(20, D)).astype(np.float32)
  _, state, grads = evaluate(
    state={'chains': chains},
    negatives='buffer',
    chains=20,
    step_size=0.1,
    noise=0.0,
    restarts=0.0,
  )
  p, x = wide(make_params()['energy']), chains.astype(np.float64)
  moved = x + 0.1 * rbm_score(p, x)
  new = np.asarray(state['chains'])
  chosen = np.abs(new - chains).max(1) > 1e-3
  assert chosen.sum() == N
  np.testing.assert_array_equal(new[~chosen], chains[~chosen])
  np.testing.assert_allclose(new[chosen], moved[chosen], rtol=1e-4, atol=1e-5)
  tree_close(
    grads['energy'],
    contrast(p, moved[chosen], POINTS.astype(np.float64)),
    rtol=1e-4,
    atol=1e-5,
  )


def test_buffer_that_always_restarts_never_reads():
  chains = np.full((20, D), np.nan, np.float32)
  metrics, state, grads = evaluate(
    state={'chains': chains},
    negatives='buffer',
    chains=20,
    step_size=1e-6,
    noise=1e-5,
    restarts=1.0,
  )
  assert_finite((metrics, grads))
  # noise^2 / (2 step_size) = 1e-10 / 2e-6.
  np.testing.assert_allclose(metrics['energy/temperature'], 5e-5, rtol=1e-5)
  written = np.asarray(state['chains'])
  written = written[np.isfinite(written).all(1)]
  assert len(written) == N
  # From noise on the input range, which such steps do not leave.
  assert np.abs(written).max() < 1.001
  assert written.std() > 0.3


def test_a_run_resumes_from_its_arrays_alone():
  config = make_config(negatives='buffer', chains=20, restarts=0.2)
  objective = energy_model.make(config)
  optimizer = optax.sgd(0.1)
  step = jit(
    functools.partial(
      step_lib.train_step, objective=objective, optimizer=optimizer
    )
  )
  params = only(make_params(), config)
  shapes = jax.eval_shape(objective.init, jax.random.key(0), {'point': POINTS})
  assert shapes[1]['chains'].shape == (20, D)
  chains = np.random.default_rng(4).normal(size=(20, D)).astype(np.float32)
  state = step_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state={'chains': jnp.asarray(chains)},
    opt_state=optimizer.init(params),
    rng=jax.random.key(7),
  )
  states = [state]
  for _ in range(4):
    states.append(step(states[-1], {'point': POINTS})[0])
  key = jax.random.key_data(states[2].rng)
  saved = jax.tree.map(np.asarray, states[2]._replace(rng=key))
  again = saved._replace(rng=jax.random.wrap_key_data(saved.rng))
  for _ in range(2):
    again, _ = step(again, {'point': POINTS})
  tree_close(again.params, states[4].params, rtol=0)
  tree_close(again.model_state, states[4].model_state, rtol=0)
  assert (states[3].model_state['chains'] != chains).any(1).sum() > N


@pytest.mark.parametrize(
  'changes',
  [
    {'steps': 2, 'step_size': 0.2, 'energy_penalty': 0.1},
    # Both the generator's and the data's own direction, and either gradient.
    {'negatives': 'mixture', 'stein_rate': 1.0},
    # Of two devices' particles.
    {'negatives': 'mixture', 'stein_rate': 1.0, 'particles_of': 2},
    {'negatives': 'generator', 'repulsion': 'none', 'contrast': 'jsd'},
  ],
  ids=['cd', 'mixture', 'particles-of-two', 'gan'],
)
def test_loss_on_eight_devices_is_that_on_one(changes):
  config = make_config(**changes)
  params = only(make_params(), config)
  metrics, _, grads = evaluate(**changes)
  objective = energy_model.make(config, axis_name='data')

  def on_each(params, batch, key):
    (loss, (metrics, _)), grads = jax.value_and_grad(
      objective.loss, has_aux=True
    )(params, {}, batch, key)
    return metrics | {'loss': loss}, jax.lax.pmean(grads, 'data')

  mapped = jax.pmap(on_each, 'data', in_axes=(None, 0, None), out_axes=None)
  others = mapped(params, {'point': POINTS[:, None]}, jax.random.key(0))
  tree_close((metrics, grads), others, rtol=1e-4, atol=1e-5)


def test_particles_of_a_group_move_among_themselves():
  metrics, _, grads = evaluate(negatives='stein', particles_of=2)
  parts = [
    evaluate(negatives='stein', points=POINTS[i : i + 2])
    for i in range(0, N, 2)
  ]
  expected = jax.tree.map(
    lambda *x: sum(x) / len(x),
    *[(part, slopes) for part, _, slopes in parts],
  )
  tree_close((metrics, grads), expected, rtol=1e-4, atol=1e-5)
  others = evaluate(negatives='stein')[2]['energy']['weights']
  assert np.abs(grads['energy']['weights'] - others).max() > 1e-3


def test_self_term_takes_the_generators_variance():
  """A linear generator of N(0, I) in 16 dimensions, as amortised inference."""
  stds = {}
  for self_term in (False, True):
    config = make_config(
      negatives='generator',
      generator=generators.MLPGenerator((16,), units=()),
      latent='normal',
      latent_size=16,
      # The median rule for n = 64: about 2 d / log n.
      bandwidth=2 * 16 / math.log(64),
      self_term=self_term,
    )
    objective = energy_model.make(config)
    # Without weights the RBM is the standard normal.
    energy = {
      'weights': jnp.zeros((16, HIDDEN)),
      'visible': jnp.zeros(16),
      'hidden': jnp.zeros(HIDDEN),
    }
    optimizer = optax.adam(0.02)

    def step(
      carry, key, objective=objective, energy=energy, optimizer=optimizer
    ):
      generator, opt_state = carry
      params = {'energy': energy, 'generator': generator}
      grads, (metrics, _) = jax.grad(objective.loss, has_aux=True)(
        params, {}, {'point': jnp.zeros((64, 16))}, key
      )
      updates, opt_state = optimizer.update(grads['generator'], opt_state)
      generator = optax.apply_updates(generator, updates)
      return (generator, opt_state), metrics['generator/spread']

    generator = {'output': {'kernel': jnp.eye(16), 'bias': jnp.zeros(16)}}
    keys = jax.random.split(jax.random.key(0), 300)
    _, std = jax.jit(functools.partial(jax.lax.scan, step))(
      (generator, optimizer.init(generator)), keys
    )
    stds[self_term] = float(std[-50:].mean())
  # It starts at the target; with the self term it leaves it.
  assert abs(stds[False] - 1) < 0.06
  assert stds[True] < 0.75


def mixture_density(x):
  """1/3 N(-2, 1) + 2/3 N(2, 1)."""
  low, high = np.exp(-((x + 2) ** 2) / 2), np.exp(-((x - 2) ** 2) / 2)
  return (low / 3 + 2 * high / 3) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(
  'changes',
  [
    {'transition': 'mala', 'steps': 3, 'step_size': 0.5},
    {'negatives': 'stein', 'bandwidth': 2.0},
  ],
  ids=['cd', 'stein'],
)
def test_mixture_is_learned_to_its_exact_likelihood(changes):
  rng = np.random.default_rng(0)
  centres = np.where(rng.random(4000) < 1 / 3, -2.0, 2.0)
  points = (centres + rng.normal(size=4000)).astype(np.float32)[:, None]
  config = energy_model.Config(units=(16, 16), **changes)
  objective = energy_model.make(config)
  params, _ = jax.eval_shape(
    objective.init, jax.random.key(0), {'point': points[:2]}
  )
  params = jax.tree.map(
    lambda x: jnp.asarray(
      rng.normal(0, x.shape[0] ** -0.5, x.shape) * (x.ndim > 1), jnp.float32
    ),
    params,
  )
  steps = 600
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

  def step(carry, key):
    params, opt_state = carry
    rows = jax.random.randint(key, (128,), 0, len(points))
    grads, (metrics, _) = jax.grad(objective.loss, has_aux=True)(
      params, {}, {'point': jnp.asarray(points)[rows]}, key
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state), metrics

  keys = jax.random.split(jax.random.key(1), steps)
  (learned, _), metrics = jax.jit(functools.partial(jax.lax.scan, step))(
    (params, optimizer.init(params)), keys
  )
  assert_finite(metrics)
  grid = np.linspace(-9, 9, 1801)
  truth = mixture_density(grid)

  def divergence(params):
    """KL(truth || model) in nats, by sums over the grid."""
    f = np.asarray(
      jit(functools.partial(energy_model.log_density, config))(
        params, jnp.asarray(grid[:, None], jnp.float32)
      ),
      np.float64,
    )
    log_p = f - np.logaddexp.reduce(f) - math.log(0.01)
    return (truth * (np.log(truth) - log_p)).sum() * 0.01

  before, after = divergence(params), divergence(learned)
  # The best single Gaussian, N(2/3, 41/9), misses by its entropy less the
  # mixture's: 0.5 ln(2 pi e 41/9) - 2.00 = 0.18 nats.
  assert before > 0.3
  assert after < 0.04


def test_encode_log_density_and_score():
  config = make_config()
  params = only(make_params(), config)
  objective = energy_model.make(config)
  features = jit(objective.encode)(params, {}, {'point': POINTS})
  p, x = wide(params['energy']), POINTS.astype(np.float64)
  np.testing.assert_allclose(
    features['energy'], rbm_f(p, x)[:, None], rtol=1e-4
  )
  np.testing.assert_allclose(
    features['features'], np.tanh(x @ p['weights'] + p['hidden']), rtol=1e-4
  )
  np.testing.assert_allclose(
    jit(functools.partial(energy_model.score, config))(params, POINTS),
    rbm_score(p, x),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'changes',
  [
    {'negatives': 'cd', 'transition': 'hmc'},
    {'negatives': 'short_run', 'transition': 'langevin', 'start': 'normal'},
    {'negatives': 'generator', 'kernel': 'features'},
    {'negatives': 'mixture', 'kernel': 'features', 'repulsion': 'nearest'},
  ],
)
def test_image_networks_train(changes):
  config = energy_model.Config(
    energy='autoencoder', generator='conv', **changes
  )
  objective = energy_model.make(config)
  batch = {'image': jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.uint8)}
  key = jax.random.key(0)
  params, state = jax.eval_shape(objective.init, key, batch)
  grads, (metrics, _) = jax.eval_shape(
    jax.grad(objective.loss, has_aux=True), params, state, batch, key
  )
  assert set(grads) == (
    {'energy'} if 'transition' in changes else {'energy', 'generator'}
  )
  assert all(x.shape == () for x in metrics.values())
  features = jax.eval_shape(objective.encode, params, state, batch)
  assert {k: v.shape for k, v in features.items()} == {
    'energy': (4, 1),
    'features': (4, 64),
  }


def test_images_enter_in_the_range_of_the_config():
  images = np.random.default_rng(0).integers(
    0, 256, (N, 3, 1, 1), dtype=np.uint8
  )
  params = only(make_params(), make_config())
  p = wide(params['energy'])
  flat = images.reshape(N, 3).astype(np.float64)
  for value, x in (((0.0, 1.0), flat / 255), ((-1, 1), flat / 127.5 - 1)):
    objective = energy_model.make(make_config(input_range=value))
    features = jit(objective.encode)(params, {}, {'image': images})
    np.testing.assert_allclose(
      features['energy'][:, 0], rbm_f(p, x), rtol=1e-4, atol=1e-5
    )


def test_samples_come_from_where_the_negatives_do():
  params, key = make_params(), jax.random.key(3)

  def sample(config, state=None, count=6, **options):
    return jit(
      lambda params, state: energy_model.sample(
        config, params, state, key, count, (D,), **options
      )
    )(params, state or {})

  chains = np.random.default_rng(4).normal(size=(7, D)).astype(np.float32)
  kept = sample(
    make_config(negatives='persistent', chains=7),
    {'chains': chains},
    count=7,
    steps=0,
  )
  # Each chain once.
  np.testing.assert_array_equal(np.sort(kept, axis=0), np.sort(chains, axis=0))
  noise = sample(make_config(input_range=(2.0, 3.0)), steps=0)
  assert ((noise >= 2) & (noise <= 3)).all()
  moved = sample(
    make_config(input_range=(2.0, 3.0), step_size=0.1, noise=0.0), steps=1
  )
  p = wide(params['energy'])
  x = np.asarray(noise, np.float64)
  np.testing.assert_allclose(moved, x + 0.1 * rbm_score(p, x), rtol=1e-4)
  for negatives in ('generator', 'exact'):
    config = make_config(negatives=negatives)
    made = jax.eval_shape(
      lambda params, config=config: energy_model.sample(
        config, params, {}, key, 6, (D,)
      ),
      params,
    )
    assert made.shape == (6, D)
  with pytest.raises(ValueError, match=r'8 samples .* keeps 7'):
    sample(
      make_config(negatives='persistent', chains=7),
      {'chains': chains},
      count=8,
    )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'negatives': 'pcd'}, r"negatives must be one of .*'cd'.*, got 'pcd'"),
    (
      {'contrast': 'hinge'},
      r"contrast must be one of .*'jsd'.*, got 'hinge'",
    ),
    (
      {'contrast': 'jsd', 'negatives': 'generator'},
      r"'jsd' takes .* \('generator', 'none', 1\), got \('generator', 'all', 1",
    ),
    ({'transition': 'ula'}, r"transition must be one of .*, got 'ula'"),
    ({'start': 'data'}, r"start must be one of .*, got 'data'"),
    ({'kernel': 'rbf'}, r"kernel must be one of .*, got 'rbf'"),
    ({'repulsion': 'off'}, r"repulsion must be one of .*'none'.*, got 'off'"),
    (
      {'normalisation': 'rows', 'negatives': 'stein'},
      r"normalisation must be one of .*'kernel'.*, got 'rows'",
    ),
    (
      {'normalisation': 'kernel', 'negatives': 'cd'},
      r"normalisation='kernel' divides .* negatives='cd'",
    ),
    (
      {
        'normalisation': 'kernel',
        'negatives': 'stein',
        'repulsion': 'nearest',
      },
      r"normalisation='kernel' .* leave it 'count' for repulsion='nearest'",
    ),
    ({'latent': 'gauss'}, r"latent must be one of .*'uniform'.*, got 'gauss'"),
    ({'energy': 'cnn'}, r"energy must be one of .*'rbm'.* module, got 'cnn'"),
    ({'generator': 3}, r"generator must be one of .*'conv'.* module, got 3"),
    ({'steps': 0}, r'steps must be a whole number >= 1, got 0'),
    ({'step_size': 0.0}, r'step_size must be > 0, got 0.0'),
    ({'stein_step': math.nan}, r'stein_step must be > 0, got nan'),
    ({'restarts': 1.5}, r'restarts must be in \[0, 1\], got 1.5'),
    ({'energy_penalty': -1.0}, r'energy_penalty must be >= 0, got -1.0'),
    ({'noise': -0.1}, r'noise must be >= 0 or None, got -0.1'),
    (
      {'noise': 0.1, 'transition': 'hmc'},
      r"noise acts on .*'langevin' alone; leave it None for 'hmc'",
    ),
    ({'input_range': (1, 0)}, r'the lower one first, got \(1, 0\)'),
    ({'bandwidth': 'median'}, r"bandwidth must be .*'svgd'.*, got 'median'"),
    ({'bandwidth': 0.0}, r'bandwidth must be > 0, got 0.0'),
    ({'bandwidth': None}, r'bandwidth must be > 0, got None'),
    ({'bandwidth': True}, r'bandwidth must be > 0, got True'),
    ({'negative_weight': 0.0}, r'negative_weight must be in \(0, 1\], got 0.0'),
    (
      {'negatives': 'stein', 'negative_weight': 0.5},
      r"negatives='stein' takes negative_weight=1, got 0.5",
    ),
    ({'units': (8, 0)}, r'units\[1\] must be a whole number >= 1, got 0'),
    (
      {'energy': 'mlp', 'negatives': 'exact'},
      r"negatives='exact' takes objective.energy='rbm', got 'mlp'",
    ),
    (
      {'energy': 'mlp', 'transition': 'gibbs'},
      r"transition='gibbs' takes objective.energy='rbm', got 'mlp'",
    ),
    ({'negatives': 'exact', 'hidden': 25}, r'up to 20 hidden units, got 25'),
    (
      {'energy': nn.Dense(1), 'kernel': 'features'},
      r"kernel='features' takes an energy with a method `features`",
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    energy_model.make(make_config(**changes))


class WithStatistics(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.BatchNorm(use_running_average=False)(x).sum(1)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'energy': nn.Dense(1)}, r'must return f \[N\], shape \(2,\).* \(2, 1\)'),
    (
      {'energy': WithStatistics()},
      r"energy must keep parameters alone.*\['batch_stats'\]",
    ),
    (
      {
        'negatives': 'generator',
        'generator': generators.MLPGenerator((D + 1,)),
      },
      r'generator makes examples of shape \(4,\), .* have \(3,\)',
    ),
  ],
)
def test_networks_that_do_not_fit_are_named(changes, message):
  objective = energy_model.make(make_config(**changes))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(objective.init, jax.random.key(0), {'point': POINTS})


def test_batches_that_do_not_fit_are_named():
  config = make_config(negatives='buffer', chains=N - 1)
  objective = energy_model.make(config)
  params = only(make_params(), config)
  state = {'chains': jnp.zeros((N - 1, D))}
  with pytest.raises(ValueError, match=r'chains is 7: .* the batch, 8 here'):
    jax.eval_shape(
      objective.loss, params, state, {'point': POINTS}, jax.random.key(0)
    )
  with pytest.raises(ValueError, match=r"'point' .* 'image' .*\['audio'\]"):
    objective.encode(params, state, {'audio': POINTS})


def test_one_example_has_no_stein_direction():
  with pytest.raises(ValueError, match=r'batch_size must be >= 2, got 1'):
    evaluate(points=POINTS[:1], negatives='stein')


@pytest.mark.parametrize(
  ('negatives', 'title'),
  [
    ('cd', 'CD-10'),
    ('persistent', 'persistent CD-10'),
    ('stein', 'SteinCD'),
    ('mixture', 'SteinCD and SteinGAN'),
  ],
)
def test_title(negatives, title):
  assert energy_model.Config(negatives=negatives, steps=10).title == title
  assert energy_model.Config(contrast='jsd').title == 'GAN'
