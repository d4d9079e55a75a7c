"""Deep InfoMax as a sum of walled terms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax import config as config_lib
from dim_jax.config import ExperimentConfig, OptimizerConfig
from dim_jax.losses import adversarial, priors
from dim_jax.networks import critics
from dim_jax.objectives import dim
from dim_jax.objectives.terms import prior_matching
from dim_jax.training import step as step_lib
from tests.small import dim_config


class OwnEncoder(nn.Module):
  """A user's module: a dense layer a pixel row, no convolution of ours."""

  stochastic: bool = False

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(6)(images)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    local = nn.relu(x)
    fc = nn.relu(nn.Dense(10)(local.reshape(local.shape[0], -1)))
    features = {'local': local, 'conv': local, 'fc': fc, 'y': nn.Dense(5)(fc)}
    if self.stochastic:
      features['log_variance'] = nn.Dense(5)(fc)
    return features


N = 6


def make_batch():
  rng = np.random.default_rng(0)
  return {
    'image': jnp.asarray(rng.integers(0, 256, (N, 4, 4, 3), dtype=np.uint8)),
    'label': jnp.asarray([0, 1, 2, 0, 1, -1]),
  }


def make_config(**changes):
  defaults = {
    'encoder': OwnEncoder(
      stochastic=changes.get('prior__distribution') == 'kl'
    ),
    'critic_units': 8,
    'global_critic_units': 8,
    'num_classes': 3,
  }
  return dim_config(**(defaults | changes))


def gradients(config, params=None):
  objective = dim.make(config)
  batch = make_batch()
  fresh, model_state = objective.init(jax.random.key(0), batch)
  params = fresh if params is None else params
  grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  (loss, (metrics, _)), grads = grad(
    params, model_state, batch, jax.random.key(1)
  )
  return loss, metrics, grads, params


def tree_close(a, b, **tolerances):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b
  )


def test_loss_is_the_weighted_sum_of_its_reported_terms():
  config = make_config(
    local_weight=0.7,
    global_weight=0.4,
    prior__weight=0.3,
    prior__gradient_penalty=2.0,
  )
  loss, m, _, _ = gradients(config)
  # -beta local - alpha global + gamma encoder + (adversary + 2 penalty) + probe
  expected = -0.7 * m['mi/local'] - 0.4 * m['mi/global']
  expected += 0.3 * m['prior/encoder'] + m['prior/adversary']
  expected += 2.0 * m['prior/gradient_penalty']
  expected += m['probe/conv_loss'] + m['probe/fc_loss'] + m['probe/y_loss']
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_encoder_feels_only_the_weighted_prior_term():
  # With the encoder's gradient a + gamma b, three gammas lie on a line; the
  # adversary's loss, which gamma does not weight, would add an offset between
  # gamma = 0, where it is absent, and the others.
  _, _, with_2, params = gradients(make_config(prior__weight=0.2))
  _, _, with_1, _ = gradients(make_config(prior__weight=0.1), params)
  _, _, without, _ = gradients(make_config(prior__weight=0.0), params)
  step_up = jax.tree.map(jnp.subtract, with_2['encoder'], with_1['encoder'])
  step_one = jax.tree.map(jnp.subtract, with_1['encoder'], without['encoder'])
  tree_close(step_up, step_one, atol=2e-6)
  assert max(jnp.abs(x).max() for x in jax.tree.leaves(step_one)) > 1e-5
  # And the adversary does not feel gamma at all.
  tree_close(with_2['adversary'], with_1['adversary'], rtol=1e-6)


def test_probe_moves_nothing_but_itself():
  _, _, probed, params = gradients(make_config())
  _, _, bare, _ = gradients(make_config(num_classes=0), params)
  for group in ('encoder', 'critic', 'adversary'):
    tree_close(probed[group], bare[group], rtol=1e-5, atol=1e-7)
  assert jnp.abs(probed['probe']['y']['kernel']).max() > 0


def test_probe_counts_labelled_images_alone():
  _, metrics, _, _ = gradients(make_config())
  # Zero weights predict class 0, which two of the five labelled images have,
  # each with a loss of log 3; the image labelled -1 does not count.
  np.testing.assert_allclose(metrics['probe/y_accuracy'], 2 / 5)
  np.testing.assert_allclose(metrics['probe/y_loss'], math.log(3), rtol=1e-6)


def test_ceiling_counts_the_negatives_of_other_images():
  # 16 locations an image, or 3 sampled ones; 5 other images.
  for samples, count in ((None, 16), (3, 3)):
    _, metrics, _, _ = gradients(make_config(local_samples=samples))
    np.testing.assert_allclose(
      metrics['mi/local_ceiling'], math.log(1 + 5 * count), rtol=1e-6
    )
    assert metrics['mi/local'] <= metrics['mi/local_ceiling']


def test_kl_prior_is_that_of_its_own_gaussian():
  config = make_config(prior__distribution='kl', prior__weight=0.5)
  objective = dim.make(config)
  batch = make_batch()
  params, model_state = objective.init(jax.random.key(0), batch)
  assert set(params) == {'encoder', 'critic', 'probe'}
  _, (metrics, _) = jax.jit(objective.loss)(
    params, model_state, batch, jax.random.key(1)
  )
  features, _ = config.encoder.apply(
    {'params': params['encoder'], **model_state['encoder']},
    batch['image'] / 127.5 - 1,
    train=True,
    mutable=['batch_stats'],
  )
  mean, log_variance = features['y'], features['log_variance']
  # KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - log s^2) / 2, summed over dims.
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1)
  np.testing.assert_allclose(metrics['prior/kl'], kl.mean(), rtol=1e-4)


def prior_codes(config, params, model_state, batch):
  features, _ = config.encoder.apply(
    {'params': params['encoder'], **model_state['encoder']},
    batch['image'] / 127.5 - 1,
    train=True,
    mutable=['batch_stats'],
  )
  return features


def test_capacity_is_free_for_each_image():
  config = make_config(
    prior__distribution='kl', prior__weight=0.5, num_classes=0
  )
  objective = dim.make(config)
  batch = make_batch()
  params, model_state = objective.init(jax.random.key(0), batch)
  features = prior_codes(config, params, model_state, batch)
  mean, log_variance = features['y'], features['log_variance']
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1)
  # Between the images' own, so that a hinge on their mean would differ.
  config.prior.budget = float(jnp.sort(kl)[2:4].mean())
  loss, (metrics, _) = jax.jit(dim.make(config).loss)(
    params, model_state, batch, jax.random.key(1)
  )
  excess = np.maximum(np.asarray(kl) - config.prior.budget, 0).mean()
  np.testing.assert_allclose(
    loss, 0.5 * excess - metrics['mi/local'], rtol=1e-4
  )
  np.testing.assert_allclose(metrics['prior/kl'], kl.mean(), rtol=1e-4)
  # Held: the distance of the mean, from either side.
  config.prior.constraint = 'hold'
  for config.prior.budget in (0.5 * float(kl.mean()), 2 * float(kl.mean())):
    loss, (metrics, _) = jax.jit(dim.make(config).loss)(
      params, model_state, batch, jax.random.key(1)
    )
    distance = abs(float(kl.mean()) - config.prior.budget)
    np.testing.assert_allclose(
      loss, 0.5 * distance - metrics['mi/local'], rtol=1e-4
    )


games = pytest.mark.parametrize('name', list(adversarial.ADVERSARIAL))


@games
def test_walls_of_every_game(name):
  losses = adversarial.ADVERSARIAL[name]
  adversary = critics.Adversary(units=(8, 6), spectral_norm=name == 'hinge')
  rng = np.random.default_rng(0)
  prior, codes = (
    jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(2)
  )
  variables = adversary.init(jax.random.key(0), codes)

  def terms(params, codes):
    terms = prior_matching.adversarial_terms(
      losses,
      adversary,
      {**variables, 'params': params},
      jax.random.key(1),
      prior,
      codes,
    )
    own = terms.adversary + sum(terms.penalties.values())
    return own, terms.encoder

  def unwalled(codes):
    # The critic's loss as the encoder would feel it without stop_gradient:
    # the encoder would help the critic.
    scores = [adversary.apply(variables, x) for x in (prior, codes)]
    return losses.critic_loss(*scores)

  @jax.jit
  def slopes(params, codes):
    of_own = jax.grad(lambda *a: terms(*a)[0], (0, 1))(params, codes)
    of_encoder = jax.grad(lambda *a: terms(*a)[1], (0, 1))(params, codes)
    return of_own, of_encoder, jax.grad(unwalled)(codes)

  own, encoder, helping = slopes(variables['params'], codes)
  # Exactly zero, not nearly.
  np.testing.assert_array_equal(own[1], 0)
  for leaf in jax.tree.leaves(encoder[0]):
    np.testing.assert_array_equal(leaf, 0)
  assert all(jnp.abs(x).max() > 0 for x in (own[0]['fc_0']['kernel'],))
  # At every code, the encoder's gradient is opposed to the critic's.
  inner = (encoder[1] * helping).sum(1)
  norms = jnp.linalg.norm(encoder[1], axis=1) * jnp.linalg.norm(helping, axis=1)
  assert norms.min() > 0
  np.testing.assert_allclose(inner / norms, -1, rtol=1e-4)


def test_default_game_is_the_adversary_with_both_penalties():
  config = make_config(prior__weight=0.3, num_classes=0)
  objective = dim.make(config)
  batch = make_batch()
  params, model_state = objective.init(jax.random.key(0), batch)
  _, (metrics, _) = jax.jit(objective.loss)(
    params, model_state, batch, jax.random.key(1)
  )
  codes = jax.nn.sigmoid(prior_codes(config, params, model_state, batch)['y'])
  # The draws of this step: the last of four keys is the prior's.
  prior = jax.random.uniform(
    jax.random.split(jax.random.key(1), 4)[3], codes.shape
  )

  def score(x):
    for name in ('fc_0', 'fc_1', 'score'):
      layer = params['adversary'][name]
      x = x @ layer['kernel'] + layer['bias'][None]
      x = x if name == 'score' else nn.relu(x)
    return x[:, 0]

  r, g = score(prior), score(codes)
  cross_entropy = -jax.nn.log_sigmoid(r).mean() - jax.nn.log_sigmoid(-g).mean()
  np.testing.assert_allclose(
    metrics['prior/adversary'], cross_entropy - 2 * math.log(2), atol=1e-6
  )
  np.testing.assert_allclose(
    metrics['prior/encoder'], -jax.nn.log_sigmoid(g).mean(), rtol=1e-5
  )
  squares = [
    jnp.square(jax.vmap(jax.grad(lambda x: score(x[None])[0]))(x)).sum(1).mean()
    for x in (prior, codes)
  ]
  np.testing.assert_allclose(
    metrics['prior/gradient_penalty'], sum(squares) / 2, rtol=1e-4
  )


@pytest.mark.parametrize('divergence', ['gan_qp_l2', 'hinge', 'mmd', 'stein'])
def test_loss_of_other_divergences_is_the_sum_of_reported_terms(divergence):
  config = make_config(
    prior__divergence=divergence,
    prior__distribution='gaussian',
    prior__weight=0.3,
    prior__gradient_penalty=2.0,
    prior__adversary_units=(8, 6),
    num_classes=0,
  )
  objective = dim.make(config)
  batch = make_batch()
  params, model_state = objective.init(jax.random.key(0), batch)
  loss, (m, new_state) = jax.jit(objective.loss)(
    params, model_state, batch, jax.random.key(1)
  )
  expected = 0.3 * m['prior/encoder'] - m['mi/local']
  if divergence in adversarial.ADVERSARIAL:
    assert set(params) == {'encoder', 'critic', 'adversary'}
    expected += m['prior/adversary'] + 2.0 * m.get('prior/penalty', 0.0)
    assert ('prior/penalty' in m) == (divergence == 'gan_qp_l2')
  else:
    assert set(params) == {'encoder', 'critic'}
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  # Scan and vmap need a state of one form.
  assert jax.tree.structure(new_state) == jax.tree.structure(model_state)
  assert ('adversary' in new_state) == (divergence == 'hinge')
  if divergence == 'mmd':
    codes = prior_codes(config, params, model_state, batch)['y']
    prior = priors.sample_prior(
      jax.random.split(jax.random.key(1), 4)[3], 'gaussian', codes.shape
    )
    np.testing.assert_allclose(
      m['prior/encoder'], priors.mmd(codes, prior), atol=1e-5
    )
  if divergence == 'stein':
    codes = prior_codes(config, params, model_state, batch)['y']
    np.testing.assert_allclose(
      m['prior/encoder'], priors.stein_prior(codes), rtol=1e-4, atol=1e-5
    )


def test_spectral_penalty_of_the_encoder():
  config = make_config(prior__weight=0.0, num_classes=0, spectral_penalty=0.2)
  objective = dim.make(config)
  batch = make_batch()
  params, model_state = objective.init(jax.random.key(0), batch)
  step = jax.jit(objective.loss)
  for _ in range(200):
    loss, (metrics, new_state) = step(
      params, model_state, batch, jax.random.key(1)
    )
    # The vectors alone move on; the encoder stays.
    model_state = model_state | {'spectral': new_state['spectral']}
  kernels = [
    layer['kernel'] for layer in params['encoder'].values() if 'kernel' in layer
  ]
  squares = [np.linalg.norm(np.asarray(k, np.float64), 2) ** 2 for k in kernels]
  np.testing.assert_allclose(
    metrics['encoder/spectral_penalty'], sum(squares) / 2, rtol=1e-3
  )
  np.testing.assert_allclose(
    loss, 0.2 * sum(squares) / 2 - metrics['mi/local'], rtol=1e-3
  )


def test_five_moves_of_a_clipped_adversary_to_one_of_the_encoder():
  config = make_config(
    prior__divergence='wgan',
    prior__distribution='gaussian',
    prior__adversary_units=(8,),
    num_classes=0,
  )
  objective = dim.make(config)
  batch = make_batch()
  slow = OptimizerConfig(learning_rate=1e-2, every=5)
  optimizer = step_lib.make_optimizer(
    OptimizerConfig(),
    {
      'encoder': slow,
      'critic': slow,
      'adversary': OptimizerConfig(learning_rate=1e-3, clip_weights=0.01),
    },
    {'encoder', 'critic', 'adversary'},
  )
  state = step_lib.init_state(objective, optimizer, batch, jax.random.key(0))
  step = jax.jit(
    functools.partial(
      step_lib.train_step, objective=objective, optimizer=optimizer
    )
  )
  moves = {'encoder': 0, 'critic': 0, 'adversary': 0}
  for _ in range(10):
    before = state.params
    state, _ = step(state, batch)
    for name in moves:
      changes = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), before[name], state.params[name]
      )
      moves[name] += any(jax.tree.leaves(changes))
    largest = max(
      jnp.abs(x).max() for x in jax.tree.leaves(state.params['adversary'])
    )
    # The initial weights are up to 1 / sqrt(5), so the first move cuts.
    assert 0.009 < largest <= 0.01 * (1 + 1e-5)
  assert moves == {'encoder': 2, 'critic': 2, 'adversary': 10}
  # The others keep their weights.
  assert (
    max(jnp.abs(x).max() for x in jax.tree.leaves(state.params['encoder']))
    > 0.1
  )


def test_a_wasserstein_adversary_must_be_bounded():
  config = ExperimentConfig(
    objective=dim_config(
      prior__divergence='wgan', prior__distribution='gaussian'
    )
  )
  with pytest.raises(ValueError, match=r"'wgan' needs.*clip_weights=0\.01"):
    config_lib.check(config)
  config.objective.prior.spectral_norm = True
  config_lib.check(config)
  config.objective.prior.spectral_norm = None
  config.groups = {'adversary': OptimizerConfig(clip_weights=0.01)}
  config_lib.check(config)
  config.groups = {'adversary': OptimizerConfig(clip_weights=0.0)}
  with pytest.raises(
    ValueError,
    match=r'groups\.adversary\.clip_weights must be > 0 or None, got 0\.0',
  ):
    config_lib.check(config)


@pytest.mark.parametrize('bound', sorted(dim.BOUNDS))
def test_every_bound_gives_finite_gradients(bound):
  config = make_config(bound=bound, prior__weight=0.0, num_classes=0)
  _, metrics, grads, _ = gradients(config)
  assert jnp.isfinite(metrics['mi/local'])
  leaves = jax.tree.leaves(grads)
  assert all(jnp.isfinite(x).all() for x in leaves)
  assert max(jnp.abs(x).max() for x in jax.tree.leaves(grads['encoder'])) > 0


def test_bfloat16_scores_are_float32_and_near_those_in_float32():
  config = make_config(encoder='small32', code=8, num_classes=0)
  image = np.random.default_rng(0).integers(
    0, 256, (N, 32, 32, 1), dtype=np.uint8
  )
  scores = {}
  for dtype in ('float32', 'bfloat16'):
    config.dtype = dtype
    variables = dim.make(config).init(jax.random.key(0), {'image': image})
    scores[dtype] = jax.jit(dim.make(config).scores)(
      variables, {'image': image}
    )['local']
    assert scores[dtype].dtype == jnp.float32
    assert scores[dtype].shape == (N, N, 64)
  # bfloat16 keeps 8 bits, 0.4 %, of a few layers' values.
  std = scores['float32'].std()
  error = jnp.abs(scores['bfloat16'] - scores['float32']).max()
  assert 0 < error < 0.2 * std


def test_encode_is_deterministic_and_returns_every_tap():
  objective = dim.make(make_config())
  batch = make_batch()
  params, model_state = objective.init(jax.random.key(0), batch)
  first = objective.encode(params, model_state, batch)
  assert set(first) == {'local', 'conv', 'fc', 'y'}
  # Running statistics: an image's features do not depend on its batch.
  alone = objective.encode(params, model_state, {'image': batch['image'][:1]})
  tree_close(jax.tree.map(lambda x: x[:1], first), alone, atol=1e-6)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bound': 'mine'}, r"bound must be one of .*'infonce'.*, got 'mine'"),
    ({'critic': 'dot'}, r"critic must be one of .*'factored'.*, got 'dot'"),
    (
      {'prior__distribution': 'laplace'},
      r"prior.distribution must be one of .*'kl'.*, got 'laplace'",
    ),
    ({'dtype': 'float16'}, r"dtype must be one of .*, got 'float16'"),
    ({'prior__weight': -1.0}, r'prior.weight must be >= 0, got -1.0'),
    ({'local_weight': 0.0}, r'both 0: nothing would train'),
    (
      {'prior': dim.Prior(distribution='kl'), 'global_feature': 'fc'},
      r"'kl' is of the code: .*global_feature must be 'y' with it, got 'fc'",
    ),
    (
      {'local_samples': 0},
      r'local_samples must be a whole number >= 1 or None, got 0',
    ),
    (
      {'prior__divergence': 'gan'},
      r"divergence must be one of .*'hinge'.*'stein'.*, got 'gan'",
    ),
    (
      {'prior__divergence': 'stein'},
      r"score.*only distribution='gaussian' has here; got.*'uniform'",
    ),
    (
      {'prior__divergence': 'mmd', 'prior__distribution': 'kl'},
      r"leaves nothing to .*'mmd'",
    ),
    (
      {'prior__budget': 1.0},
      r"is of distribution='kl', got distribution='uniform'",
    ),
    (
      {'prior__budget': -1.0, 'prior__distribution': 'kl'},
      r'prior.budget must be >= 0 or None, got -1',
    ),
    (
      {'prior__constraint': 'hold', 'prior__distribution': 'kl'},
      r"constraint='hold' holds .* which is None: set that to nats",
    ),
    (
      {'prior__constraint': 'dual'},
      r"constraint must be one of 'hinge', 'hold', got 'dual'",
    ),
    (
      {'spectral_penalty': -1.0},
      r'spectral_penalty must be >= 0, got -1.0',
    ),
    (
      {'prior__adversary_units': ()},
      r'adversary_units must hold at least 1 size, got \(\)',
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dim.make(make_config(**changes))


def test_missing_tap_is_named():
  objective = dim.make(make_config(local_feature='conv_7'))
  with pytest.raises(
    ValueError, match=r"local_feature is 'conv_7'.*'conv', 'fc'"
  ):
    objective.init(jax.random.key(0), make_batch())
