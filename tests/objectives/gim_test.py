"""Greedy InfoMax as a sum of walled losses, each computed again by hand."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dim_jax.config import OptimizerConfig
from dim_jax.losses import cpc
from dim_jax.networks import greedy_modules
from dim_jax.objectives import gim
from dim_jax.training import parallel
from dim_jax.training import step as step_lib
from tests import small


class Pixelwise(nn.Module):
  """A user's module for patches: a dense layer at each pixel."""

  features: int

  @nn.compact
  def __call__(self, x):
    return nn.tanh(nn.Dense(self.features, name='dense')(x))


class Frames(nn.Module):
  """A user's module for sound: a dense layer on `stride` frames at a time."""

  features: int
  stride: int

  @nn.compact
  def __call__(self, x):
    x = x.reshape(x.shape[0], x.shape[1] // self.stride, -1)
    return nn.tanh(nn.Dense(self.features, name='dense')(x))


class Past(nn.Module):
  """An autoregressor: a dense layer on the sum of what came before."""

  features: int

  context = True

  @nn.compact
  def __call__(self, z):
    return nn.tanh(nn.Dense(self.features, name='dense')(jnp.cumsum(z, 1)))


class Normalised(nn.Module):
  """A module with running statistics, which it changes in training alone."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train=False):
    return nn.BatchNorm(
      use_running_average=not train, momentum=0.5, axis_name=self.axis_name
    )(x)


class Dropped(nn.Module):
  """Half of what it gets, in training."""

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dropout(0.5, deterministic=not train)(x)


N = 4
RNG = jax.random.key(1)
# Tiny programs, each run once or twice: compiling them is what takes time.
compiled = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
IMAGE_MODULES = (Pixelwise(5), Pixelwise(3), Pixelwise(4))
SOUND_MODULES = (Frames(5, 2), Frames(3, 1), Past(4))


def image_config(**changes):
  """4x4 pixels every 2: 10x10 images are a grid of 4x4 patches."""
  fields = {
    'modules': IMAGE_MODULES,
    'patch_size': 4,
    'patch_stride': 2,
    'offsets': 2,
    'negatives': 6,
    'num_classes': 3,
  }
  return gim.Config(**(fields | changes))


def sound_config(**changes):
  """24 samples are 12 frames, of which 8 are predicted from and to."""
  fields = {
    'modules': SOUND_MODULES,
    'offsets': 2,
    'negatives': 6,
    'window': 8,
    'audio_std': 0.5,
    'num_classes': 3,
  }
  return gim.Config(**(fields | changes))


CONFIGS = {'image': image_config, 'audio': sound_config}


def make_batch(kind, count=N):
  rng = np.random.default_rng(0)
  if kind == 'image':
    data = rng.integers(0, 256, (count, 10, 10, 1), dtype=np.uint8)
  else:
    data = rng.integers(-(2**15), 2**15, (count, 24)).astype(np.int16)
  labels = np.arange(count, dtype=np.int32) % 3
  labels[1] = -1
  return {kind: data, 'label': labels}


def start(config, batch):
  return compiled(gim.make(config).init)(jax.random.key(0), batch)


@functools.cache
def started(kind):
  """Of three modules, each with a score; not all of them are used."""
  return start(CONFIGS[kind](), make_batch(kind))


def value(config, variables, batch):
  """The loss, its metrics and the new model state."""
  loss, (metrics, model_state) = compiled(gim.make(config).loss)(
    *variables, batch, RNG
  )
  return loss, metrics, model_state


def metric_gradients(config, batch, variables, names):
  """Metrics, and the gradient of each named one, and of 'loss', their sum."""
  objective = gim.make(config)

  @compiled
  def run(params, model_state):
    def values(params):
      total, (metrics, _) = objective.loss(params, model_state, batch, RNG)
      chosen = {name: metrics[name] for name in names}
      return chosen | {'loss': total}, metrics

    return jax.jacrev(values, has_aux=True)(params)

  found, metrics = run(*variables)
  return metrics, found


def largest(tree):
  return max(float(np.abs(x).max()) for x in jax.tree.leaves(tree))


def tree_close(a, b, **tolerances):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b
  )


def tree_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


# --- gradient isolation -------------------------------------------------------


@pytest.mark.parametrize(
  # Which modules each loss reaches.
  ('kind', 'stop_gradient_after', 'reached'),
  [
    ('image', None, {0: {0}, 1: {1}, 2: {2}}),
    ('audio', None, {0: {0}, 1: {1}, 2: {2}}),
    ('image', (), {2: {0, 1, 2}}),
    ('image', (1,), {1: {0, 1}, 2: {2}}),
    ('audio', (0,), {0: {0}, 2: {1, 2}}),
  ],
)
def test_each_loss_reaches_its_own_segment_alone(
  kind, stop_gradient_after, reached
):
  config = CONFIGS[kind](
    stop_gradient_after=stop_gradient_after, negatives=None, window=None
  )
  batch = make_batch(kind)
  variables = started(kind)
  losses = {i: f'module_{i}/infonce' for i in reached}
  probes = [f'probe/module_{i}_loss' for i in range(3)]
  names = [*losses.values(), *probes]
  metrics, found = metric_gradients(config, batch, variables, names)
  assert {name for name in metrics if name.endswith('infonce')} == set(
    losses.values()
  )
  for end, name in losses.items():
    for i in range(3):
      size = largest(found[name][f'module_{i}'])
      assert (size > 1e-4) if i in reached[end] else (size == 0), (name, i)
      if i in reached[end]:
        # The sum of all losses has this gradient, and no other.
        tree_close(
          found['loss'][f'module_{i}'],
          found[name][f'module_{i}'],
          rtol=1e-5,
          atol=1e-8,
        )
    assert largest(found[name]['probe']) == 0
  for i, name in enumerate(probes):
    assert largest({k: v for k, v in found[name].items() if k != 'probe'}) == 0
    assert largest(found[name]['probe'][f'module_{i}']) > 1e-4
    others = {k: v for k, v in found[name]['probe'].items() if k[-1] != str(i)}
    assert largest(others) == 0


# --- the losses again, in numpy -----------------------------------------------


def dense(group, x):
  layer = jax.tree.map(np.float64, group['network']['dense'])
  return np.tanh(x @ layer['kernel'] + layer['bias'])


def cut(images):
  """[N, 4, 4, 4, 4, 1]: each patch from its corner."""
  images = images.astype(np.float64) / 127.5 - 1
  grid = [
    [images[:, y : y + 4, x : x + 4] for x in range(0, 7, 2)]
    for y in range(0, 7, 2)
  ]
  return np.moveaxis(np.array(grid), 2, 0)


def contrast(predicted, targets, negatives):
  """Loss and accuracy of predictions [..., C], from negatives [..., K, C]."""
  positive = (predicted * targets).sum(-1)
  others = np.einsum('...c,...kc->...k', predicted, negatives)
  scores = np.concatenate([positive[..., None], others], -1)
  losses = np.log(np.exp(scores).sum(-1)) - positive
  # A negative may be the positive itself, which rounding must not decide.
  return losses.mean(), (positive >= others.max(-1) - 1e-9).mean()


def grid_reference(z, weights, rng, negatives=6, skip=1):
  """Means over the offsets: each patch predicts those below it."""
  weights = np.float64(weights)
  offsets, height = len(weights), z.shape[1]
  indices = compiled(
    lambda rng: cpc.grid_negatives(rng, z.shape, offsets, negatives, skip=skip)
  )(rng)
  rows = z.reshape(-1, z.shape[-1])
  found = []
  for s, (weight, index) in enumerate(
    zip(weights, indices, strict=True), start=1 + skip
  ):
    predicted = z[:, : height - s] @ weight.T
    found.append(contrast(predicted, z[:, s:], rows[index]))
  return np.mean(found, 0)


def sequence_reference(z, c, weights, rng, negatives=6, window=8):
  """Means over the offsets: frames of a window predict later ones in it."""
  weights = np.float64(weights)

  @compiled
  def draw(rng):
    start_rng, rng = jax.random.split(rng)
    first = cpc.window_start(start_rng, z.shape[1], window)
    return first, cpc.sequence_negatives(
      rng, z.shape, len(weights), negatives, method=1, window=window
    )

  first, index = draw(rng)
  rows = z.reshape(-1, z.shape[-1])
  z, c = (x[:, first : first + window] for x in (z, c))
  found = []
  for s, weight in enumerate(weights, start=1):
    predicted = c[:, : window - s] @ weight.T
    found.append(contrast(predicted, z[:, s:], rows[index][:, s:]))
  return np.mean(found, 0)


def test_losses_of_images_are_those_by_hand():
  config, batch = image_config(), make_batch('image')
  params, model_state = started('image')
  _, metrics, _ = value(config, (params, model_state), batch)
  x = cut(batch['image'])
  for i in range(3):
    x = dense(params[f'module_{i}'], x)
    z = x.mean((3, 4))
    loss, accuracy = grid_reference(
      z, params[f'module_{i}']['score'], jax.random.fold_in(RNG, i)
    )
    np.testing.assert_allclose(metrics[f'module_{i}/infonce'], loss, rtol=1e-5)
    np.testing.assert_allclose(
      metrics[f'module_{i}/accuracy'], accuracy, rtol=1e-6
    )
    # One positive among 6 negatives.
    np.testing.assert_allclose(
      metrics[f'module_{i}/ceiling'], math.log(7), rtol=1e-6
    )


def test_losses_of_sound_are_those_by_hand():
  config, batch = sound_config(), make_batch('audio')
  params, model_state = started('audio')
  _, metrics, _ = value(config, (params, model_state), batch)
  x = (batch['audio'] / 2**15 / 0.5).reshape(N, 12, 2)
  made = [dense(params['module_0'], x)]
  made.append(dense(params['module_1'], made[0]))
  # The autoregressor predicts its inputs from its outputs.
  made.append(dense(params['module_2'], np.cumsum(made[1], 1)))
  targets = [made[0], made[1], made[1]]
  for i, (z, c) in enumerate(zip(targets, made, strict=True)):
    loss, accuracy = sequence_reference(
      z, c, params[f'module_{i}']['score'], jax.random.fold_in(RNG, i)
    )
    np.testing.assert_allclose(metrics[f'module_{i}/infonce'], loss, rtol=1e-5)
    np.testing.assert_allclose(
      metrics[f'module_{i}/accuracy'], accuracy, rtol=1e-6
    )


def test_without_negatives_all_targets_are_contrasted():
  # Equal features score alike: ln of all targets of an offset, 4 images of
  # 2 x 4 and 1 x 4 patches.
  config, batch = image_config(negatives=None), make_batch('image')
  batch['image'] = np.zeros_like(batch['image'])
  _, metrics, _ = value(config, started('image'), batch)
  expected = (math.log(4 * 2 * 4) + math.log(4 * 1 * 4)) / 2
  for name in ('infonce', 'ceiling'):
    np.testing.assert_allclose(metrics[f'module_1/{name}'], expected, rtol=1e-5)


@pytest.mark.parametrize('kind', ['image', 'audio'])
def test_targets_of_a_context_learn_unless_a_wall_is_before_it(kind):
  # Without isolation between, the features are contexts and targets at once
  # (CPC); the loss is written down again, over cpc's own functions.
  chain = (*(IMAGE_MODULES if kind == 'image' else SOUND_MODULES)[:2], Past(4))
  fields = {
    'modules': chain,
    'num_classes': 0,
    'negatives': None,
    'window': None,
  }
  walled, config = (
    CONFIGS[kind](**fields),
    CONFIGS[kind](**fields, stop_gradient_after=(0,)),
  )
  batch = make_batch(kind)
  if kind == 'audio':
    variables = started(kind)
  else:
    variables = start(walled, batch)
  name = 'module_2/infonce'
  _, found = metric_gradients(config, batch, variables, [name])
  params = {k: variables[0][k] for k in ('module_1', 'module_2')}
  first = CONFIGS[kind](modules=chain, depth=1)

  @compiled
  def reference(params):
    features = gim.make(first).module_outputs(variables, batch)

    def loss(params, fixed):
      z = chain[1].apply({'params': params['module_1']['network']}, features)
      z = z.mean((3, 4)) if z.ndim == 6 else z
      c = chain[2].apply({'params': params['module_2']['network']}, z)
      z = jax.lax.stop_gradient(z) if fixed else z
      infonce = cpc.grid_infonce if kind == 'image' else cpc.sequence_infonce
      return infonce(z, c, params['module_2']['score']).loss.mean()

    return [jax.grad(loss)(params, fixed) for fixed in (False, True)]

  expected, fixed = reference(params)
  tree_close(
    {k: found[name][k] for k in params}, expected, rtol=1e-4, atol=1e-7
  )
  difference = jax.tree.map(
    jnp.subtract, fixed['module_1'], expected['module_1']
  )
  assert largest(difference) > 1e-4
  # Where the gradient stops neither contexts nor targets send anything back.
  _, found = metric_gradients(walled, batch, variables, [name])
  assert largest(found[name]['module_1']) == 0
  assert largest(found[name]['module_2']) > 1e-4


@pytest.mark.parametrize('stop_gradient_after', [None, ()])
def test_supervised_losses_are_cross_entropies_of_labelled_examples(
  stop_gradient_after,
):
  config = image_config(
    loss='supervised', stop_gradient_after=stop_gradient_after
  )
  batch = make_batch('image')
  params, model_state = start(config, batch)
  _, metrics, _ = value(config, (params, model_state), batch)
  ends = [2] if stop_gradient_after == () else [0, 1, 2]
  assert [i for i in range(3) if 'head' in params[f'module_{i}']] == ends
  x, known = cut(batch['image']), batch['label'] >= 0
  assert known.sum() == 3
  labels = batch['label'][known]
  for i in range(3):
    x = dense(params[f'module_{i}'], x)
    if i not in ends:
      assert f'module_{i}/cross_entropy' not in metrics
      continue
    head = jax.tree.map(np.float64, params[f'module_{i}']['head'])
    logits = x.mean((1, 2, 3, 4))[known] @ head['kernel'] + head['bias']
    own = logits[np.arange(3), labels]
    losses = np.log(np.exp(logits).sum(1)) - own
    np.testing.assert_allclose(
      metrics[f'module_{i}/cross_entropy'], losses.mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
      metrics[f'module_{i}/accuracy'],
      (logits.argmax(1) == labels).mean(),
      rtol=1e-6,
    )


def test_no_labels_at_all_give_a_supervised_loss_of_zero():
  config = image_config(loss='supervised', modules=IMAGE_MODULES[:1])
  batch = make_batch('image') | {'label': np.full(N, -1, np.int32)}
  loss, metrics, _ = value(config, start(config, batch), batch)
  assert loss == metrics['module_0/accuracy'] == 0


# --- modules that are not trained ---------------------------------------------


def test_frozen_modules_give_what_joint_training_gives():
  fields = {'negatives': None, 'window': None}
  config, batch = sound_config(**fields), make_batch('audio')
  joint = started('audio')
  names = ['module_2/infonce']
  metrics, grads = metric_gradients(config, batch, joint, names)
  frozen = sound_config(**fields, frozen=2)
  params, model_state = start(frozen, batch)
  # They are no parameter groups, and so no optimizer knows them.
  assert set(params) == {'module_2', 'probe'}
  assert set(params['probe']) == {'module_2'}
  optimizer = step_lib.make_optimizer(OptimizerConfig(), {}, params)
  assert 'module_0' not in str(jax.tree.structure(optimizer.init(params)))
  assert set(model_state['frozen']) == {'module_0', 'module_1'}
  # What they start from does not depend on being frozen.
  for name, group in model_state['frozen'].items():
    assert set(group) == {'network'}
    tree_equal(group['network'], joint[0][name]['network'])
  tree_equal(params['module_2'], joint[0]['module_2'])
  alone, alone_grads = metric_gradients(
    frozen, batch, (params, model_state), names
  )
  np.testing.assert_allclose(alone[names[0]], metrics[names[0]], rtol=1e-6)
  tree_close(
    alone_grads['loss']['module_2'],
    grads['loss']['module_2'],
    rtol=1e-5,
    atol=1e-7,
  )
  # Stored, in one go or one module after another.
  stored = gim.make(sound_config(depth=2)).module_outputs(joint, batch)
  first = gim.make(sound_config(depth=1)).module_outputs(joint, batch)
  state = {'frozen': {'module_0': joint[0]['module_0']}}
  again = gim.make(sound_config(depth=2, frozen=1)).module_outputs(
    (joint[0], state), {'features': first}
  )
  np.testing.assert_allclose(again, stored, rtol=1e-6)
  # float16 rounds features, of at most 1, by 2**-12 at most; a score is a sum
  # of 3 x 4 products with weights and contexts of at most 1.
  for dtype, tolerance in ((np.float32, 1e-5), (np.float16, 12 * 2**-11)):
    entered = {
      'features': np.asarray(stored).astype(dtype),
      'label': batch['label'],
    }
    _, found, _ = value(frozen, (params, model_state), entered)
    assert abs(found[names[0]] - metrics[names[0]]) < tolerance
  outputs = [
    compiled(gim.make(c).encode)(*variables, {'audio': batch['audio']})
    for c, variables in ((config, joint), (frozen, (params, model_state)))
  ]
  tree_close(*outputs, rtol=1e-6, atol=1e-7)


def test_running_statistics_move_in_training_and_rest_when_frozen():
  modules = (Normalised(), Pixelwise(3))
  fields = {'modules': modules, 'negatives': None}
  config, batch = image_config(**fields), make_batch('image')
  params, model_state = start(config, batch)
  x = cut(batch['image'])
  _, _, moved = value(config, (params, model_state), batch)
  name = 'BatchNorm_0'
  found = moved['module_0']['batch_stats'][name]['mean']
  # Half of the first mean, 0, and half of the batch's.
  np.testing.assert_allclose(found, 0.5 * x.mean((0, 1, 2, 3, 4)), rtol=1e-4)
  outputs = gim.make(config).encode(params, model_state, batch)
  # The first statistics, mean 0 and variance 1, change nothing but epsilon.
  np.testing.assert_allclose(
    outputs['module_0'][:, 0], x.mean((1, 2, 3, 4, 5)), rtol=1e-4, atol=1e-6
  )
  frozen = image_config(**fields, frozen=1)
  params, model_state = start(frozen, batch)
  _, _, after = value(frozen, (params, model_state), batch)
  tree_equal(after, model_state)


@pytest.mark.parametrize('by_rows', [False, True])
def test_modules_drop_out_in_training_alone(by_rows):
  x = jnp.ones((2, 3, 3, 8, 8, 4))
  made, _ = gim.apply_module(
    Dropped(), {}, {}, x, train=True, rng=RNG, by_rows=by_rows
  )
  # What is kept is doubled; 5 standard deviations of a mean of 4,608.
  assert set(np.unique(made)) == {0, 2}
  np.testing.assert_allclose(made.mean(), 1, atol=5 / np.sqrt(made.size))
  rows = np.asarray(jnp.moveaxis(made, 1, 0))
  assert not any(
    np.array_equal(a, b) for a, b in itertools.combinations(rows, 2)
  )
  rest, _ = gim.apply_module(Dropped(), {}, {}, x, train=False, by_rows=by_rows)
  np.testing.assert_array_equal(rest, x)


def test_each_step_and_module_drops_out_anew():
  # Nothing else is drawn.
  config = image_config(
    modules=(Dropped(), Dropped()), loss='supervised', remat=True
  )
  batch = make_batch('image')
  params, model_state = start(config, batch)
  # Classifiers of the mean, which count what is left of each module's input.
  params = jax.tree.map(jnp.ones_like, params)
  for i in range(2):
    params[f'module_{i}']['head']['kernel'] = jnp.array([[1.0, 0.0, -1.0]])
  loss = compiled(gim.make(config).loss)
  found = [
    loss(params, model_state, batch, jax.random.fold_in(RNG, i))[1][0]
    for i in (0, 0, 1)
  ]
  same, again, other = (
    [float(metrics[f'module_{i}/cross_entropy']) for i in range(2)]
    for metrics in found
  )
  assert same == again
  assert same[0] != other[0] and same[1] != other[1]


def test_first_parameters_do_not_depend_on_other_modules():
  batch = make_batch('image')
  whole, _ = started('image')
  for changes in (
    {'depth': 1, 'stop_gradient_after': ()},
    {'depth': 2, 'frozen': 1},
    {'modules': IMAGE_MODULES[:2], 'num_classes': 0},
  ):
    params, model_state = start(image_config(**changes), batch)
    groups = params | model_state.get('frozen', {})
    groups.pop('probe', None)
    assert groups
    for name, group in groups.items():
      for part in group:
        tree_equal(group[part], whole[name][part])
  # A segment has a score at its end alone.
  objective = gim.make(image_config(stop_gradient_after=(1,)))
  walled, _ = jax.eval_shape(objective.init, RNG, batch)
  ends = [i for i in range(3) if 'score' in walled[f'module_{i}']]
  assert ends == [1, 2]


# --- forms of features --------------------------------------------------------


def test_pool_averages_neighbours():
  x = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
  expected = np.stack([(x[:, 0] + x[:, 1]) / 2, (x[:, 2] + x[:, 3]) / 2], 1)
  np.testing.assert_allclose(gim.passed_on(jnp.asarray(x), 2), expected)
  maps = np.random.default_rng(0).normal(size=(2, 3, 3, 4, 5, 6))
  found = gim.passed_on(jnp.asarray(maps, jnp.float32), 2)
  assert found.shape == (2, 3, 3, 2, 2, 6)
  np.testing.assert_allclose(
    found[:, :, :, 1, 0], maps[:, :, :, 2:4, 0:2].mean((3, 4)), rtol=1e-5
  )
  # One vector a patch has no neighbours.
  vectors = jnp.ones((2, 3, 3, 6))
  assert gim.passed_on(vectors, 2) is vectors
  with pytest.raises(ValueError, match=r'pool is 6.*\(2, 5, 3\).*axis 1'):
    gim.passed_on(jnp.asarray(x), 6)


def test_pooled_modules_train_on_less():
  config, batch = image_config(pool=2), make_batch('image')
  variables = started('image')
  passed = gim.make(image_config(pool=2, depth=2)).module_outputs(
    variables, batch
  )
  assert passed.shape == (N, 4, 4, 1, 1, 3)
  # Nobody gets what the last one makes: a map of 1x1 is no mistake there.
  objective = gim.make(config)
  jax.eval_shape(objective.init, RNG, batch)
  jax.eval_shape(objective.loss, *variables, batch, RNG)
  maps = compiled(gim.make(config).encode)(*variables, batch)
  x = dense(variables[0]['module_0'], cut(batch['image']))
  x = x.reshape(N, 4, 4, 2, 2, 2, 2, 5).mean((4, 6))
  x = dense(variables[0]['module_1'], x)
  np.testing.assert_allclose(
    maps['module_1_map'], x.mean((3, 4)), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    maps['module_1'], x.mean((1, 2, 3, 4)), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ('name', 'shape'), [('resnet_small', (2, 32, 32, 3)), ('sound', (2, 20480))]
)
def test_named_modules_compute_in_bfloat16_and_score_in_float32(name, shape):
  kind = 'image' if len(shape) == 4 else 'audio'
  config = gim.Config(
    modules=name, patch_size=8, patch_stride=4, dtype='bfloat16'
  )
  objective = gim.make(config)
  dtype = np.uint8 if kind == 'image' else np.int16
  batch = {
    kind: jax.ShapeDtypeStruct(shape, dtype),
    'label': jax.ShapeDtypeStruct(shape[:1], np.int32),
  }
  params, model_state = jax.eval_shape(objective.init, RNG, batch)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  loss, (metrics, _) = jax.eval_shape(
    objective.loss, params, model_state, batch, RNG
  )
  assert loss.dtype == jnp.float32
  assert {x.dtype for x in metrics.values()} == {jnp.dtype('float32')}
  passed = jax.eval_shape(
    objective.module_outputs, (params, model_state), batch
  )
  assert passed.dtype == jnp.bfloat16
  outputs = jax.eval_shape(objective.encode, params, model_state, batch)
  widths = {'resnet_small': (32, 64, 128), 'sound': (512,) * 5 + (256,)}[name]
  for i, width in enumerate(widths):
    assert outputs[f'module_{i}'].shape == (2, width)
    assert outputs[f'module_{i}'].dtype == jnp.float32
  # 32 pixels have 7 patches of 8 every 4; a frame is 160 samples.
  grid = (7, 7) if kind == 'image' else (128,)
  last = len(widths) - 1
  assert outputs[f'module_{last}_map'].shape == (2, *grid, widths[-1])


# --- devices and optimizers ---------------------------------------------------


@pytest.mark.parametrize(
  'config',
  [
    image_config(modules=IMAGE_MODULES[:1], num_classes=0),
    sound_config(
      modules=SOUND_MODULES[1:], stop_gradient_after=(), num_classes=0
    ),
    # One of them with statistics of the batch, which is on all devices.
    image_config(
      modules=(IMAGE_MODULES[0], Normalised(), IMAGE_MODULES[1]),
      stop_gradient_after=(),
      loss='supervised',
    ),
    # Negatives of a device's own two images, and of two devices' sequences.
    image_config(modules=IMAGE_MODULES[:1], num_classes=0, negatives_of=2),
    sound_config(modules=SOUND_MODULES[1:], num_classes=0, negatives_of=4),
  ],
  ids=['grid', 'sequence', 'supervised', 'own-images', 'sequences-of-two'],
)
def test_one_device_is_jit_on_eight_is_pmap_on_eight(config):
  kind = 'audio' if config.window == 8 else 'image'
  batch = make_batch(kind, 16)
  # Unlabelled examples fall unevenly on the devices.
  batch['label'][:3] = -1
  # SGD: Adam turns the rounding noise of a zero gradient into full steps.
  optimizer = optax.sgd(0.1)
  init = functools.partial(step_lib.init_state, gim.make(config), optimizer)
  fresh = compiled(init)(batch, jax.random.key(0))
  forms = small.in_all_forms(
    lambda axis_name: gim.make(config, axis_name=axis_name),
    fresh,
    optimizer,
    batch,
  )
  moved = jax.tree.map(np.subtract, forms['one'][0], fresh.params)
  assert min(largest(moved[group]) for group in moved) > 1e-4
  for name in ('jit', 'pmap'):
    tree_close(forms['one'], forms[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kind', ['image', 'audio'])
def test_negatives_of_a_group_are_a_loop_over_groups(kind):
  make = CONFIGS[kind]
  modules = {'image': IMAGE_MODULES[:1], 'audio': SOUND_MODULES[1:]}[kind]
  config = make(modules=modules, stop_gradient_after=(), num_classes=0)
  grouped = dataclasses.replace(config, negatives_of=2)
  batch = make_batch(kind, 6)
  params, state = start(config, batch)
  last = len(modules) - 1

  def by_hand(params):
    """Of three groups, each with its own draws."""
    losses = []
    for i in range(3):
      x = gim.inputs(config, {kind: batch[kind][2 * i : 2 * i + 2]})
      for number, module in enumerate(modules):
        entered = x
        network = params[f'module_{number}']['network']
        x, _ = gim.apply_module(module, network, {}, entered, train=True)
      rng = jax.random.fold_in(jax.random.fold_in(RNG, last), i)
      own = params[f'module_{last}']
      losses.append(
        gim.module_loss(config, modules[-1], own, entered, x, None, rng)[0]
      )
    return sum(losses) / 3

  def run(params):
    return gim.make(grouped).loss(params, state, batch, RNG)[0]

  expected = compiled(jax.value_and_grad(by_hand))(params)
  result = compiled(jax.value_and_grad(run))(params)
  tree_close(result, expected, rtol=1e-5, atol=1e-6)
  assert largest(expected[1]) > 1e-3


def test_negatives_of_a_device_leave_nothing_to_exchange_but_gradients():
  """Read in the compiled program of two images on each of 8 devices."""
  if len(jax.devices()) < 8:
    pytest.skip('needs 8 devices')
  mesh = parallel.make_mesh(8)
  _, rows = parallel.shardings(mesh)
  batch = jax.device_put(make_batch('image', 16), rows)
  config = image_config(modules=IMAGE_MODULES[:1], num_classes=0)
  params, state = start(config, make_batch('image'))

  def exchanged(config):
    def loss(params, batch):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return gim.make(config).loss(params, state, batch, RNG)[0]

    program = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
    return {name for name, _, _ in small.collectives(program.as_text())}

  assert exchanged(config) > {'all-reduce'}
  grouped = dataclasses.replace(config, negatives_of=2)
  assert exchanged(grouped) == {'all-reduce'}


def test_each_module_has_its_own_learning_rate_and_pace():
  batch = make_batch('image')
  objective = gim.make(
    image_config(modules=IMAGE_MODULES[:2], num_classes=0, negatives=None)
  )
  params, model_state = started('image')
  params = {name: params[name] for name in ('module_0', 'module_1')}

  def run(groups):
    default = OptimizerConfig(learning_rate=1e-3)
    optimizer = step_lib.make_optimizer(default, groups, params)
    state = step_lib.TrainState(
      jnp.int32(0), params, model_state, optimizer.init(params), RNG
    )
    step = compiled(
      functools.partial(
        step_lib.train_step, objective=objective, optimizer=optimizer
      )
    )
    history = [jax.device_get(state.params)]
    for _ in range(4):
      state, _ = step(state, batch)
      history.append(jax.device_get(state.params))
    return history

  slow = run({'module_1': OptimizerConfig(learning_rate=1e-2, every=2)})
  plain = run({})
  # module_0 does not see that module_1 moves otherwise.
  for a, b in zip(slow, plain, strict=True):
    tree_equal(a['module_0'], b['module_0'])
  assert not np.array_equal(
    slow[-1]['module_1']['score'], plain[-1]['module_1']['score']
  )
  sizes = {
    name: [
      largest(jax.tree.map(np.subtract, b[name], a[name]))
      for a, b in itertools.pairwise(slow)
    ]
    for name in slow[0]
  }
  moves = np.array(sizes['module_1']) > 0
  assert moves.sum() == 2 and not (moves[:-1] & moves[1:]).any()
  # Adam's first step is the learning rate, whatever the gradient's size.
  np.testing.assert_allclose(sizes['module_0'][0], 1e-3, rtol=1e-2)
  first = np.flatnonzero(moves)[0]
  np.testing.assert_allclose(sizes['module_1'][first], 1e-2, rtol=1e-2)


# --- what cannot be used ------------------------------------------------------


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'loss': 'hinge'}, r"loss must be one of .*'infonce'.*, got 'hinge'"),
    ({'dtype': 'float16'}, r"dtype must be one of .*, got 'float16'"),
    ({'modules': 'resnet18'}, r"one of .*'patch_small'.*, got 'resnet18'"),
    ({'modules': ()}, r'at least one Flax module, got \(\)'),
    ({'modules': ('resnet50',)}, "Flax module, got 'resnet50'"),
    ({'modules': 3}, 'a sequence of at least one Flax module, got 3'),
    (
      {'stop_gradient_after': (0, 3)},
      r'stop_gradient_after has 3; the gradient stops behind modules 0\.\.2',
    ),
    ({'stop_gradient_after': 1}, r'must be None or a tuple .* \(0, 2\); got 1'),
    ({'stop_gradient_after': (-1,)}, r'stop_gradient_after has -1; .* 0\.\.2'),
    ({'depth': 4}, r'depth must be in 1\.\.3, .*; got 4'),
    ({'depth': 0}, r'depth must be in 1\.\.3, .*; got 0'),
    ({'depth': 2, 'frozen': 2}, r'frozen must be in 0\.\.1, .* got 2'),
    ({'frozen': -1}, r'frozen must be a whole number >= 0, got -1'),
    ({'patch_size': 0}, 'patch_size must be a whole number >= 1, got 0'),
    ({'offsets': 0}, 'offsets must be a whole number >= 1, got 0'),
    ({'negatives': 0}, 'negatives must be a whole number >= 1 or None, got 0'),
    ({'skip': -1}, 'skip must be a whole number >= 0, got -1'),
    ({'method': 3}, 'method must be one of 0, 1, 2, got 3'),
    ({'audio_std': 0.0}, r'audio_std must be > 0, got 0\.0'),
    (
      {'loss': 'supervised', 'num_classes': 0},
      "'supervised' and objective.num_classes 0",
    ),
  ],
)
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    gim.make(image_config(**changes))


@pytest.mark.parametrize(
  ('kind', 'changes', 'batch', 'message'),
  [
    (
      'image',
      {'offsets': 5},
      {},
      'grid has 4 rows, but 5 offsets with skip 1 need more than 6',
    ),
    (
      'audio',
      {'offsets': 12, 'window': 128},
      {},
      '12 offsets need more than 12 frames, but there are 12',
    ),
    ('audio', {'offsets': 8}, {}, 'more than 8 frames, but there are 8'),
    ('image', {'patch_size': 5}, {}, 'patches of 5 pixels every 2 .* 10x10'),
    ('image', {'patch_size': 16}, {}, 'patches of 16 pixels every 2 .* 10x10'),
    (
      'image',
      {'modules': greedy_modules.patch_small()},
      {},
      # Patches of 4 pixels are one position behind the first module's 4x4.
      r'module_1, PatchModule, cannot take inputs of shape \(1, 1, 64\) each',
    ),
    ('image', {}, {'image': np.zeros((4, 10, 10))}, r'\(4, 10, 10\)'),
    ('audio', {}, {'audio': np.zeros((4, 0), np.int16)}, r'no samples.*4, 0'),
    (
      'audio',
      {},
      {'audio': np.zeros((4, 24, 2), np.int16)},
      r'\[N, T\], one channel.*\(4, 24, 2\); average the channels',
    ),
    (
      'audio',
      {},
      {'audio': np.zeros((4, 24), np.int32)},
      r'int16, or floats in \[-1, 1\]; got int32',
    ),
  ],
)
def test_what_does_not_fit_is_named(kind, changes, batch, message):
  config = CONFIGS[kind](**changes)
  batch = make_batch(kind) | batch

  def run():
    objective = gim.make(config)
    params, model_state = jax.eval_shape(objective.init, RNG, batch)
    jax.eval_shape(objective.loss, params, model_state, batch, RNG)

  with pytest.raises(ValueError, match=message):
    run()


def test_missing_labels_and_examples_are_named():
  config = image_config(loss='supervised')
  batch = make_batch('image')
  objective = gim.make(config)
  params, model_state = jax.eval_shape(objective.init, RNG, batch)
  del batch['label']
  with pytest.raises(ValueError, match="the batch has no 'label'"):
    jax.eval_shape(objective.loss, params, model_state, batch, RNG)
  with pytest.raises(ValueError, match=r"'image' or 'audio'; got \['label'\]"):
    gim.make(config).init(RNG, {'label': np.zeros(4, np.int32)})


@pytest.mark.parametrize('kind', ['image', 'audio'])
def test_one_module_and_one_example_are_enough(kind):
  module = Pixelwise(3) if kind == 'image' else Frames(3, 2)
  config = CONFIGS[kind](modules=module, negatives=None)
  batch = make_batch(kind, 2)
  batch = {name: values[:1] for name, values in batch.items()}
  variables = start(config, batch)
  loss, metrics, _ = value(config, variables, batch)
  assert set(variables[0]) == {'module_0', 'probe'}
  assert np.isfinite(loss) and np.isfinite(metrics['module_0/infonce'])
  # A negative is drawn from the example itself.
  drawn = gim.make(CONFIGS[kind](modules=module))
  jax.eval_shape(drawn.loss, *variables, batch, RNG)


@pytest.mark.parametrize(
  ('settings', 'title'),
  [
    ({}, 'Greedy InfoMax'),
    # One behind the last of three changes nothing, nor does its absence.
    ({'stop_gradient_after': (0, 1)}, 'Greedy InfoMax'),
    ({'stop_gradient_after': (0, 1, 2)}, 'Greedy InfoMax'),
    ({'stop_gradient_after': ()}, 'CPC'),
    ({'stop_gradient_after': (2,)}, 'CPC'),
    (
      {'stop_gradient_after': (1,)},
      'InfoNCE, gradient stopped behind module_1',
    ),
    ({'loss': 'supervised'}, 'greedy supervised'),
    ({'loss': 'supervised', 'stop_gradient_after': ()}, 'supervised'),
    ({'frozen': 2}, 'Greedy InfoMax, one after another'),
    # Nothing passes out of frozen modules, so no gradient crosses a border.
    (
      {'frozen': 2, 'stop_gradient_after': ()},
      'Greedy InfoMax, one after another',
    ),
    ({'depth': 1, 'stop_gradient_after': ()}, 'CPC'),
  ],
)
def test_title(settings, title):
  assert gim.Config(modules='resnet_small', **settings).title == title
