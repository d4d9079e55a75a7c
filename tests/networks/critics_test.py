import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dim_jax.networks import critics
from dim_jax.networks.convolutional import ConvLayer

N, M, L, C, D = 4, 2, 3, 6, 5


def _normal(rng, *shape):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _features(n=N, m=M, locations=L, channels=C, size=D):
  rng = np.random.default_rng(0)
  return _normal(rng, n, locations, channels), _normal(rng, n, m, size)


def _variables(module, *inputs):
  """Variables in which every scale, shift and average counts.

  From NumPy: XLA takes longer to compile the samplers than all else here.
  """
  rng = np.random.default_rng(1)

  def fill(x):
    if x.ndim < 2:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
    return _normal(rng, *x.shape) / math.sqrt(x.shape[0])

  return jax.tree.map(
    fill, jax.eval_shape(module.init, jax.random.key(0), *inputs)
  )


def _batch_norm(x, params, stats=None):
  """Batch normalisation and ReLU, by the batch's statistics unless given."""
  if stats is None:
    stats = {'mean': x.mean((0, 1)), 'var': x.var((0, 1))}
  scale = params['scale'] / jnp.sqrt(stats['var'] + 1e-5)
  x = (x - stats['mean'][None, None]) * scale[None, None]
  return nn.relu(x + params['bias'][None, None])


def _projection(params, x):
  """The paper's block, on [n, L, C], with the batch's statistics."""
  hidden = _batch_norm(x @ params['hidden']['kernel'], params['hidden_norm'])
  y = hidden @ params['output']['kernel'] + params['output']['bias'][None, None]
  y = y + x @ params['skip']['kernel']
  y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(
    y.var(-1, keepdims=True) + 1e-5
  )
  scale, bias = params['norm']['scale'], params['norm']['bias']
  return y * scale[None, None] + bias[None, None]


def _train_scores(critic, variables, local, glob):

  @jax.jit
  def apply(variables, local, glob):
    return critic.apply(
      variables, local, glob, train=True, mutable=['batch_stats']
    )

  return apply(variables, local, glob)[0]


@pytest.mark.parametrize('name', sorted(critics.CRITICS))
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_scores_are_float32_of_all_pairs(name, dtype):
  critic = critics.CRITICS[name](units=8, dtype=dtype)
  local, glob = _features()
  variables = jax.eval_shape(critic.init, jax.random.key(0), local, glob)
  scores = jax.eval_shape(
    critic.apply, variables, local.astype(dtype), glob.astype(dtype)
  )
  assert scores.shape == (N * M, N, L)
  assert scores.dtype == jnp.float32
  params = jax.tree.leaves(variables['params'])
  assert {p.dtype for p in params} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', sorted(critics.CRITICS))
def test_a_score_sees_its_own_pair_only(name):
  """Anchor i * M + m is global m of image i; running statistics couple none."""
  critic = critics.CRITICS[name](units=8)
  local, glob = _features()
  variables = _variables(critic, local, glob)
  scores = jax.jit(critic.apply)(variables, local, glob)
  i, m, j, p = 2, 1, 3, 0
  alone = jax.jit(critic.apply)(
    variables, local[j : j + 1, p : p + 1], glob[i : i + 1, m : m + 1]
  )
  np.testing.assert_allclose(alone[0, 0, 0], scores[i * M + m, j, p], rtol=1e-4)
  # The rows differ, or the equality above would mean little.
  assert np.unique(np.round(scores, 5)).size == scores.size


def test_projection_critic_is_the_papers():
  critic = critics.ProjectionCritic(units=8)
  local, glob = _features()
  variables = _variables(critic, local, glob)
  params = variables['params']
  expected = jnp.einsum(
    'imk,jlk->imjl',
    _projection(params['global'], glob),
    _projection(params['local'], local),
  ).reshape(N * M, N, L)
  scores = _train_scores(critic, variables, local, glob)
  np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_first_projection_scores_have_the_spread_of_the_released_code():
  # Two vectors of norm sqrt(K) at random angles: standard deviation sqrt(K).
  units = 256
  critic = critics.ProjectionCritic(units=units)
  local, glob = _features(n=16, m=1, locations=4, channels=32, size=32)
  scores = _train_scores(
    critic, jax.jit(critic.init)(jax.random.key(0), local, glob), local, glob
  )
  assert 0.5 < np.std(scores) / math.sqrt(units) < 2


def test_skip_connections_start_as_a_noisy_copy():
  init = critics.noisy_identity()
  kernel = np.asarray(init(jax.random.key(0), (5, 8)))
  np.testing.assert_array_equal(np.diag(kernel), 1)
  noise = kernel[~np.eye(5, 8, dtype=bool)]
  assert 0.008 < np.abs(noise).max() <= 0.01
  assert noise.min() < 0 < noise.max()
  # Fewer units than inputs: PyTorch's default.
  kernel = np.asarray(init(jax.random.key(0), (100, 50)))
  assert 0.095 < np.abs(kernel).max() <= 0.1
  local, glob = _features()
  critic = critics.FactoredCritic(units=8)
  params = jax.jit(critic.init)(jax.random.key(0), local, glob)
  np.testing.assert_array_equal(np.diag(params['params']['skip']), 1)


def _unfactored(variables, local, glob):
  """<W2 h(l) + Ws l + b, g> / sqrt(units), summed before the dot product."""
  params = variables['params']
  units = params['bias'].size
  hidden = _batch_norm(
    local @ params['hidden']['kernel'], params['hidden_norm']
  )
  embedded = (
    hidden @ params['output']
    + local @ params['skip']
    + params['bias'][None, None]
  )
  glob = _projection(params['global'], glob).reshape(-1, units)
  return jnp.einsum('ak,jlk->ajl', glob, embedded) / math.sqrt(units)


def test_factored_critic_equals_the_unfactored_evaluation():
  critic = critics.FactoredCritic(units=32)
  local, glob = _features(locations=8)
  variables = _variables(critic, local, glob)
  weights = _normal(np.random.default_rng(2), N * M, N, 8)

  def run(evaluate):
    def loss(params, local, glob):
      scores = evaluate({**variables, 'params': params}, local, glob)
      return (weights * scores).sum(), scores

    (_, scores), gradients = jax.jit(
      jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    )(variables['params'], local, glob)
    return scores, gradients

  factored = run(lambda v, x, y: _train_scores(critic, v, x, y))
  expected = run(_unfactored)

  def compare(path, a, b):
    # Relative to the array: single entries cancel. Biases before a batch
    # normalisation do not exist, so no gradient is zero as a whole.
    error = np.linalg.norm(a - b) / np.linalg.norm(b)
    assert error < 1e-5, (path, error)

  jax.tree_util.tree_map_with_path(compare, factored, expected)


def test_factored_critic_skips_the_large_product():
  """Compiled operations, forward and backward."""
  n, locations, channels, units = 4, 64, 8, 128
  critic = critics.FactoredCritic(units=units)
  local, glob = _features(n, 1, locations, channels, 8)
  variables = _variables(critic, local, glob)

  def flops(evaluate):
    def loss(params):
      return evaluate({**variables, 'params': params}, local, glob).mean()

    compiled = jax.jit(jax.grad(loss)).lower(variables['params']).compile()
    return compiled.cost_analysis()['flops']

  factored = flops(lambda v, x, y: _train_scores(critic, v, x, y))
  unfactored = flops(_unfactored)
  # W2 meets n * L locals, forward and once backward for each of its operands;
  # the factored form spends the products with n globals and hidden scores.
  large = 3 * 2 * n * locations * units**2
  assert unfactored > large
  assert factored < 0.25 * unfactored
  assert unfactored - factored > 0.9 * large


def test_concat_critic_equals_tiling_and_concatenating():
  critic = critics.ConcatCritic(units=8)
  local, glob = _features()
  variables = _variables(critic, local, glob)
  params = variables['params']

  def evaluate(params, local, glob):
    tiled = jnp.broadcast_to(glob.reshape(N * M, 1, 1, D), (N * M, N, L, D))
    pairs = jnp.broadcast_to(local[None], (N * M, N, L, C))
    x = jnp.concatenate([tiled, pairs], -1)
    shape = (1, 1, 1, -1)
    x = nn.relu(x @ params['kernel'] + params['bias'].reshape(shape))
    fc = params['fc_1']
    x = nn.relu(x @ fc['kernel'] + fc['bias'].reshape(shape))
    score = params['score']
    return (x @ score['kernel'] + score['bias'].reshape(shape))[..., 0]

  def run(evaluate):
    def loss(params, local, glob):
      scores = evaluate(params, local, glob)
      return jnp.sin(scores).sum(), scores

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
      params, local, glob
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    run(lambda p, x, y: critic.apply({'params': p}, x, y)),
    run(evaluate),
  )


def test_concat_critic_is_the_papers_global_critic():
  # Code 64 and basic32's last map of 4096, then 512, 512 and 1.
  critic = critics.ConcatCritic()
  shapes = jax.eval_shape(
    critic.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((2, 1, 4096), jnp.float32),
    jax.ShapeDtypeStruct((2, 1, 64), jnp.float32),
  )
  count = (64 + 4096) * 512 + 512 + 512 * 512 + 512 + 512 + 1
  assert sum(p.size for p in jax.tree.leaves(shapes)) == count


def test_adversary_is_the_papers():
  adversary = critics.Adversary()
  x = _normal(np.random.default_rng(0), 3, 64)
  variables = _variables(adversary, x)
  params = variables['params']
  assert list(variables) == ['params']
  shapes = [params[k]['kernel'].shape for k in ('fc_0', 'fc_1', 'score')]
  assert shapes == [(64, 1000), (1000, 200), (200, 1)]
  half = critics.Adversary(dtype=jnp.bfloat16)
  assert jax.eval_shape(half.apply, variables, x).dtype == jnp.float32
  scores = jax.jit(adversary.apply)(variables, x)
  assert scores.shape == (3,)
  for name in ('fc_0', 'fc_1', 'score'):
    x = x @ params[name]['kernel'] + params[name]['bias'][None]
    x = x if name == 'score' else nn.relu(x)
  np.testing.assert_allclose(scores, x[:, 0], rtol=1e-4, atol=1e-5)


def test_spectrally_normalised_adversary():
  adversary = critics.Adversary(units=(6, 5), spectral_norm=True)
  x = _normal(np.random.default_rng(3), 4, 3)
  variables = adversary.init(jax.random.key(0), x)
  # The parameters are those of the plain one, and have its names.
  plain = critics.Adversary(units=(6, 5))
  assert jax.tree.map(jnp.shape, variables['params']) == jax.tree.map(
    jnp.shape, plain.init(jax.random.key(0), x)['params']
  )
  train = jax.jit(
    lambda v: adversary.apply(v, x, train=True, mutable=['batch_stats'])
  )
  for _ in range(100):
    _, state = train(variables)
    variables = {'params': variables['params'], **state}

  def score(params, x):
    return adversary.apply({**variables, 'params': params}, x)

  expected = x
  for name in ('fc_0', 'fc_1', 'score'):
    layer = variables['params'][name]
    norm = np.linalg.norm(np.asarray(layer['kernel'], np.float64), 2)
    expected = expected @ (layer['kernel'] / norm) + layer['bias'][None]
    expected = expected if name == 'score' else nn.relu(expected)
  np.testing.assert_allclose(
    score(variables['params'], x), expected[:, 0], rtol=1e-4, atol=1e-5
  )
  slopes = jax.grad(lambda x: score(variables['params'], x).sum())(x)
  assert np.linalg.norm(slopes, axis=1).max() <= 1 + 1e-4
  # Scores do not change with a weight's scale, so no gradient points along it.
  gradients = jax.grad(lambda p: score(p, x).sum())(variables['params'])
  for name in ('fc_0', 'fc_1', 'score'):
    kernel, gradient = (
      t[name]['kernel'] for t in (variables['params'], gradients)
    )
    inner = float(jnp.vdot(kernel, gradient))
    size = float(jnp.linalg.norm(kernel) * jnp.linalg.norm(gradient))
    assert size > 1e-3
    assert abs(inner) < 1e-3 * size


def test_pair_adversary_is_convolutions_which_the_code_joins():
  convs = (ConvLayer(3, 4, 2, 1), ConvLayer(5, 3, 1, 1, pool=True))
  adversary = critics.PairAdversary(convs, (7,))
  rng = np.random.default_rng(5)
  images, codes = _normal(rng, 4, 8, 8, 2), _normal(rng, 4, D)
  variables = _variables(adversary, images, codes)
  params = variables['params']
  assert list(variables) == ['params']
  apply = jax.jit(adversary.apply)
  scores = apply(variables, images, codes)
  x = images
  for i, (stride, name) in enumerate(((2, 'conv_0'), (1, 'conv_1'))):
    x = jax.lax.conv_general_dilated(
      x,
      params[name]['kernel'],
      (stride, stride),
      [(1, 1), (1, 1)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = x + params[name]['bias'].reshape(1, 1, 1, -1)
    x = jnp.where(x > 0, x, 0.2 * x)
    if i:  # Of 4x4, one window of 3x3 with stride 2 fits.
      x = x[:, :3, :3].max((1, 2))
  x = jnp.concatenate([x, codes], 1)
  fc, score = params['pairs']['fc_0'], params['pairs']['score']
  x = nn.relu(x @ fc['kernel'] + fc['bias'][None])
  expected = x @ score['kernel'] + score['bias'][None]
  np.testing.assert_allclose(scores, expected[:, 0], rtol=1e-4, atol=1e-5)
  # A score is of its own pair alone, also with normalisation.
  other = images.at[1:].add(1.0), codes.at[1:].add(1.0)
  np.testing.assert_allclose(scores[0], apply(variables, *other)[0], rtol=1e-5)
  grouped = critics.PairAdversary(convs, (7,), norm='group')
  variables = _variables(grouped, images, codes)
  values = [
    jax.jit(grouped.apply)(variables, *x) for x in ((images, codes), other)
  ]
  np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-5)
  assert np.all(np.abs(values[0][1:] - values[1][1:]) > 1e-4)


def test_adversary_iterates_in_its_own_step_alone():
  adversary = critics.Adversary(units=(6,), spectral_norm=True)
  x = _normal(np.random.default_rng(4), 4, 3)
  variables = adversary.init(jax.random.key(0), x)
  statistics = variables['batch_stats']
  _, kept = adversary.apply(variables, x, mutable=['batch_stats'])
  jax.tree.map(np.testing.assert_array_equal, kept['batch_stats'], statistics)
  _, moved = adversary.apply(variables, x, train=True, mutable=['batch_stats'])
  for layer, values in statistics.items():
    for name, value in values.items():
      # The first sigma is that of the vector it starts from.
      if name.endswith('/u'):
        change = moved['batch_stats'][layer][name] - value
        assert jnp.abs(change).max() > 1e-4, name


@pytest.mark.parametrize('name', sorted(critics.CRITICS))
def test_devices_that_gather_globals_score_all_pairs(name):
  """Scores, gradients and statistics are those of one device."""
  devices = jax.local_device_count()
  if devices == 1:
    pytest.skip('needs several devices')
  make = critics.CRITICS[name]
  local, glob = _features(n=2 * devices)
  variables = _variables(make(units=8), local, glob)
  params = variables['params']
  state = {k: v for k, v in variables.items() if k != 'params'}
  weights = _normal(np.random.default_rng(2), 2 * devices * M, 2 * devices, L)

  def gathered(x):
    return jax.lax.all_gather(x, 'data', tiled=True)

  def all_scores(critic, variables, local, glob, axis_name):
    """Of all globals with this device's locals, and statistics after it."""
    own = {'train': True, 'mutable': ['batch_stats']}
    if axis_name is None:
      return critic.apply(variables, local, glob, **own)
    if hasattr(critic, 'embed'):
      (anchors, local), updated = critic.apply(
        variables, local, glob, method='embed', **own
      )
      return critic.score(jax.tree.map(gathered, anchors), local), updated
    glob = gathered(glob).reshape(-1, 1, D)
    return critic.apply(variables, local, glob, paired=False, **own)

  def step(critic, params, local, glob, weights, axis_name=None):
    def loss(params):
      variables = {'params': params, **state}
      scores, updated = all_scores(critic, variables, local, glob, axis_name)
      value = (weights * scores).sum()
      if axis_name is not None:
        value = jax.lax.psum(value, axis_name)
      return value, (scores, updated)

    return jax.grad(loss, has_aux=True)(params)

  def parallel(params, local, glob, weights):
    critic = make(units=8, axis_name='data')
    gradients, (scores, updated) = step(
      critic, params, local, glob, weights, 'data'
    )
    scores = jax.lax.all_gather(scores, 'data', axis=1, tiled=True)
    return jax.lax.pmean(gradients, 'data'), (scores, updated)

  expected = jax.jit(lambda *args: step(make(units=8), *args))(
    params, local, glob, weights
  )
  split = [x.reshape(devices, 2, *x.shape[1:]) for x in (local, glob)]
  columns = weights.reshape(len(weights), devices, 2, L).swapaxes(0, 1)
  actual = jax.pmap(parallel, axis_name='data', in_axes=(None, 0, 0, 0))(
    params, *split, columns
  )

  def compare(path, a, b):
    for device in range(devices):
      error = np.abs(a[device] - b).max()
      assert error <= 1e-5 + 1e-4 * np.abs(b).max(), (path, device, error)

  jax.tree_util.tree_map_with_path(compare, actual, expected)


@pytest.mark.parametrize('name', sorted(critics.CRITICS))
@pytest.mark.parametrize(
  ('local', 'glob', 'match'),
  [
    ((N, 2, 2, C), (N, M, D), r'local.*\[n, L, C\].*\(4, 2, 2, 6\)'),
    ((N, L, C), (N, D), r'global.*\[n, M, D\].*\(4, 5\)'),
    ((N, L, C), (N - 1, M, D), 'same images; got 4 and 3'),
  ],
)
def test_wrong_shapes(name, local, glob, match):
  critic = critics.CRITICS[name](units=8)
  with pytest.raises(ValueError, match=match):
    critic.init(jax.random.key(0), jnp.zeros(local), jnp.zeros(glob))


def test_wrong_settings_and_vectors():
  with pytest.raises(ValueError, match=r'depth.*got 0'):
    critics.ConcatCritic(depth=0).init(jax.random.key(0), *_features())
  with pytest.raises(ValueError, match=r'\[N, D\].*\(4, 2, 5\)'):
    critics.Adversary().init(jax.random.key(0), jnp.zeros((N, M, D)))


def test_cosine_scores_are_cosines_times_the_factor():
  critic = critics.CosineCritic(units=8)
  local, glob = _features()
  params = _variables(critic, local, glob)['params']
  sides = {}
  for name, x in (('local', local), ('global', glob)):
    layer = jax.tree.map(np.asarray, params[name])
    y = np.asarray(x) @ layer['kernel'] + layer['bias']
    sides[name] = y / np.linalg.norm(y, axis=-1, keepdims=True)
  expected = np.exp(params['log_factor']) * np.einsum(
    'imk,jlk->imjl', sides['global'], sides['local']
  )
  scores = critic.apply({'params': params}, local, glob)
  np.testing.assert_allclose(
    scores, expected.reshape(N * M, N, L), rtol=1e-4, atol=1e-5
  )
  # The temperature that contrastive training starts at.
  first = critic.init(jax.random.key(0), local, glob)['params']['log_factor']
  assert float(jnp.exp(-first)) == pytest.approx(0.07)
