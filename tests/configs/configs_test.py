"""Every config builds, and says how it is run."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from dim_jax import config as config_lib
from dim_jax import configs
from dim_jax.data import points
from dim_jax.networks import encoders
from dim_jax.objectives import dim, gim, vib

FAMILIES = configs.families()
CONFIGS = [
  (name, row)
  for name, module in FAMILIES.items()
  for row in getattr(module, 'ROWS', [None])
]
CHANNELS = {
  'digits': 1,
  'mnist': 1,
  'cifar10': 3,
  'cifar100': 3,
  'stl10': 3,
  'tiny-imagenet-200/': 3,
}
STORED_SIZE = {'mnist': 28, 'cifar10': 32, 'cifar100': 32, 'stl10': 96}
# Hjelm et al. 2019, tables 1 and 2: alpha, beta, gamma; and the bound.
FORMS = {
  'global': (1.0, 0.0, 1.0, 'jsd'),
  'local_dv': (0.0, 1.0, 0.1, 'donsker_varadhan'),
  'local_jsd': (0.0, 1.0, 0.1, 'jsd'),
  'local_infonce': (0.0, 1.0, 0.1, 'infonce'),
}
# The encoder, classes, epochs and images trained on; and the accuracy in
# percent of an MLP probe on conv, fc and y, in the order of FORMS.
TABLES = {
  'cifar10': (
    ('basic32', 10, 1000, 45_000),
    (52.2, 52.84, 43.17),
    (72.66, 70.60, 64.71),
    (73.25, 73.62, 66.96),
    (75.21, 75.57, 69.13),
  ),
  'cifar100': (
    ('basic32', 100, 1000, 45_000),
    (27.68, 24.35, 19.98),
    (48.52, 44.44, 39.27),
    (48.13, 45.92, 39.60),
    (49.74, 47.72, 41.61),
  ),
  'tiny_imagenet': (
    ('alex64', 200, 200, 90_000),
    (11.32, 6.34, 4.95),
    (30.35, 29.51, 28.18),
    (33.54, 36.88, 31.66),
    (34.21, 38.09, 33.33),
  ),
  'stl10': (
    ('alex64', 10, 200, 100_000),
    (42.03, 30.82, 28.09),
    (69.15, 63.81, 61.92),
    (72.86, 70.85, 65.93),
    (72.57, 70.00, 67.08),
  ),
}
# Their comparison with CPC: the encoder, the globals, the accuracy in percent.
FOLDED = {
  ('dim_cifar10', 'folded'): ('foldresnet34_32', 'y', 80.95),
  ('dim_cifar10', 'folded_globals'): ('foldmultiresnet34_32', 'globals', 77.51),
  ('dim_stl10', 'folded'): ('foldalex64', 'y', 76.97),
  ('dim_stl10', 'folded_globals'): ('foldmultialex64', 'globals', 78.21),
}


def load(name, row=None):
  return FAMILIES[name].get_config(*filter(None, [row]))


def batch_of(config):
  """Shapes of what a step sees: images after crops, windows, or points."""
  source, n = config.data, config.batch_size
  if isinstance(source, config_lib.PointConfig):
    shape = (n, len(points.moments(source.name)[0]))
    return {'point': jax.ShapeDtypeStruct(shape, np.float32)}
  if isinstance(source, config_lib.TextConfig):
    shape = (n, 2, source.length)
    return {'text': jax.ShapeDtypeStruct(shape, np.int32)}
  batch = {'label': jax.ShapeDtypeStruct((n,), np.int32)}
  if isinstance(source, config_lib.SoundConfig):
    shape = (n, source.window)
    return batch | {'audio': jax.ShapeDtypeStruct(shape, np.int16)}
  size = source.image_size or STORED_SIZE[source.name]
  if source.crop is not None:
    assert source.crop <= size
    size = source.crop
  assert not source.unlabelled or source.name == 'stl10'
  channels = CHANNELS[source.name]
  assert not source.grayscale or channels == 3
  shape = (n, size, size, 1 if source.grayscale else channels)
  return batch | {'image': jax.ShapeDtypeStruct(shape, np.uint8)}


@pytest.mark.parametrize(('name', 'row'), CONFIGS)
def test_config_traces_and_names_its_command(name, row):
  config = load(name, row)
  if isinstance(config, config_lib.SweepConfig):
    assert config_lib.from_json(config_lib.to_json(config)) == config
    assert len(config.betas) >= 5 and len(config.seeds) >= 3
    config = config.run
  config_lib.check(config)
  assert config_lib.from_json(config_lib.to_json(config)) == config
  assert f'dim-jax train --config={name}' in FAMILIES[name].__doc__
  objective = config_lib.make_objective(config)
  batch = batch_of(config)
  if objective.indexed:
    batch['index'] = batch['label']
  encoder = getattr(config.objective, 'encoder', 'mlp')
  if encoder != 'mlp' and 'image' in batch:
    assert batch['image'].shape[1] == encoders.make(encoder).image_size
  rng = jax.random.key(0)
  params, model_state = jax.eval_shape(objective.init, rng, batch)
  loss, (metrics, _) = jax.eval_shape(
    objective.loss, params, model_state, batch, rng
  )
  assert loss.shape == ()
  assert all(value.shape == () for value in metrics.values())
  if isinstance(config.objective, dim.Config) and 'conv' in (
    config.paper or {}
  ):
    # What the paper's numbers are of, evaluation can probe.
    taps = jax.eval_shape(objective.encode, params, model_state, batch)
    assert {'conv', 'fc', 'y'} & set(config.paper) <= set(taps)


def weights_of(objective):
  return (
    objective.global_weight,
    objective.local_weight,
    objective.prior.weight if objective.prior else 0.0,
  )


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', TABLES)
def test_there_is_a_config_a_paper_row(name, form):
  *weights, bound = FORMS[form]
  (encoder, classes, epochs, images), *numbers = TABLES[name]
  config = load(f'dim_{name}', form)
  objective = config.objective
  assert isinstance(objective, dim.Config)
  assert weights_of(objective) == tuple(weights)
  assert (objective.bound, objective.encoder) == (bound, encoder)
  assert objective.num_classes == classes
  assert config.optimizer.learning_rate == 1e-4
  assert config.optimizer.b1 == 0.5
  assert config.steps == pytest.approx(
    epochs * images / config.batch_size, rel=1e-3
  )
  data = config.data
  assert data.unlabelled == data.flip == (name == 'stl10')
  assert data.crop == (64 if name == 'stl10' else None)
  paper = config.paper
  assert paper['row'].startswith('DIM(G)' if form == 'global' else 'DIM(L)')
  expected = numbers[list(FORMS).index(form)]
  assert (paper['conv'], paper['fc'], paper['y']) == expected
  # The rows that no source at hand confirms say so.
  assert ('from memory' in paper['source']) == (form == 'local_dv')


@pytest.mark.parametrize('name', ['digits', *TABLES])
def test_the_methods_of_a_table_differ_in_their_objective_alone(name):
  methods = configs.table([f'dim_{name}'])
  first = methods['supervised']
  for method, config in methods.items():
    for field in ('data', 'optimizer', 'batch_size', 'steps', 'average'):
      if (name, field) == ('stl10', 'data'):
        # It alone learns from labels, which the other images do not have.
        assert config.data.unlabelled == (method != 'supervised')
        own = dataclasses.replace(config.data, unlabelled=False)
        assert own == first.data
        continue
      assert getattr(config, field) == getattr(first, field), (method, field)
    for field in ('encoder', 'code', 'norm', 'num_classes', 'probe_features'):
      assert getattr(config.objective, field) == getattr(
        first.objective, field
      ), (method, field)
  if name == 'digits':
    return
  # The published error of the classifier is 100 less its accuracy.
  accuracies = {
    'cifar10': 75.39, 'cifar100': 42.27, 'tiny_imagenet': 36.6, 'stl10': 68.7
  }  # fmt: skip
  error = methods['supervised'].paper['error_1']
  assert error == pytest.approx(100 - accuracies[name])
  for method in ('ae', 'beta_vae', 'local_dv'):
    assert 'from memory' in methods[method].paper['source']
  assert 'from memory' not in methods['vae'].paper['source']


def test_the_row_of_both_kinds_of_information():
  config = load('dim_cifar10', 'local_global')
  assert weights_of(config.objective) == (0.5, 0.1, 0.1)
  assert (config.objective.bound, config.paper['row']) == ('jsd', 'DIM(L+G)')


@pytest.mark.parametrize(
  ('name', 'code', 'epochs'),
  [('digits', 64, None), ('mnist', 64, None), ('cifar10', 256, 50)],
)
def test_the_rows_of_sus_variant_weigh_as_its_code(name, code, epochs):
  config = load(f'dim_{name}', 'su')
  objective = config.objective
  # Its KL is a mean over the dimensions of the code, ours a sum.
  assert weights_of(objective) == (0.5, 1.5, pytest.approx(0.01 / code))
  assert (objective.code, objective.prior.distribution) == (code, 'kl')
  assert (objective.bound, objective.negatives_of) == ('jsd', 2)
  # Three layers of 256 and one of 1, on pairs of codes, and of code and map.
  assert (objective.critic, objective.concat_depth) == ('concat', 3)
  assert objective.critic_units == objective.global_critic_units == 256
  assert (objective.map_feature, objective.local_feature) == ('y', 'conv')
  assert config.optimizer.learning_rate == 1e-3
  if epochs is not None:
    assert config.steps == pytest.approx(epochs * 45_000 / 64, rel=1e-3)


@pytest.mark.parametrize('row', FOLDED)
def test_the_rows_against_cpc(row):
  encoder, tap, accuracy = FOLDED[row]
  config = load(*row)
  objective = config.objective
  assert weights_of(objective) == (0.0, 1.0, 0.0)
  assert (objective.encoder, objective.global_feature) == (encoder, tap)
  assert (objective.bound, objective.critic_units) == ('infonce', 1024)
  assert config.paper['conv'] == accuracy
  assert 'from memory' in config.paper['source']
  size = encoders.make(encoder).image_size
  taps, _ = jax.eval_shape(
    lambda images: encoders.make(encoder).init_with_output(
      jax.random.key(0), images
    ),
    jax.ShapeDtypeStruct((2, size, size, 3), np.float32),
  )
  assert taps['local'].shape[1:3] == (7, 7)
  assert taps[tap].shape[1:3] == ((5, 5) if tap == 'globals' else (64,))


@pytest.mark.parametrize(
  ('name', 'encoder', 'accuracy'),
  [
    ('dim_cifar10', 'foldresnet34_32', 77.45),
    ('dim_stl10', 'foldalex64', 77.81),
    ('dim_digits', 'foldsmall32', None),
  ],
)
def test_cpc_sees_the_crops_of_the_row_that_it_is_compared_with(
  name, encoder, accuracy
):
  config, folded = load(name, 'cpc'), load(name, 'folded')
  assert folded.objective.encoder == encoder
  for field in ('data', 'optimizer', 'groups', 'batch_size', 'steps'):
    assert getattr(config, field) == getattr(folded, field)
  assert config.objective.title == 'CPC'
  objective = config_lib.make_objective(config)
  batch = batch_of(config)
  variables = jax.eval_shape(objective.init, jax.random.key(0), batch)
  taps = jax.eval_shape(objective.encode, *variables, batch)
  other = config_lib.make_objective(folded)
  variables = jax.eval_shape(other.init, jax.random.key(0), batch)
  locals_ = jax.eval_shape(other.encode, *variables, batch)['local']
  assert taps['module_0_map'].shape == locals_.shape
  assert taps['module_1_map'].shape == locals_.shape
  # Two rows below, the nearest predicted, there are 5 of the 7 rows of crops.
  counts = objective.negatives(batch)
  assert counts['module_1/infonce'][0] == 64 * 5 * 7 - 1
  paper = config.paper
  if accuracy is None:
    assert paper is None
  else:
    assert (paper['module_0_map'], paper['probe']) == (accuracy, 'mlp')
    assert paper['row'] == 'CPC' and 'from memory' in paper['source']


# Alemi et al. 2017, table 1: what each row adds to the network, and its error.
VIB_ROWS = {
  'vib': ({'covariance': 'diagonal', 'beta': 1e-3, 'code': 256}, 1.13),
  'deterministic': ({}, 1.38),
  'dropout': ({'dropout': 0.5}, 1.34),
  'label_smoothing': ({'label_smoothing': 0.1}, 1.40),
  'confidence_penalty': ({'confidence_penalty': 1.0}, 1.36),
}


@pytest.mark.parametrize('row', VIB_ROWS)
def test_the_rows_of_the_bottleneck_differ_in_what_the_paper_says(row):
  fields, error = VIB_ROWS[row]
  config = load('vib_mnist', row)
  assert config.objective == vib.Config(**{'covariance': 'none'} | fields)
  assert config.paper['error_12'] == error
  # 200 epochs of the 60,000 images; the rate falls by 3 % every 2 epochs.
  assert config.steps * config.batch_size == 200 * 60_000
  assert config.data.validation == 0
  optimizer = config.optimizer
  assert optimizer.decay_every * config.batch_size == 2 * 60_000
  assert (optimizer.learning_rate, optimizer.b1) == (1e-4, 0.5)
  assert (optimizer.decay, config.average) == (0.97, 0.999)
  small = load('vib_digits', row)
  for field in ('dropout', 'label_smoothing', 'confidence_penalty'):
    assert getattr(small.objective, field) == getattr(config.objective, field)


# Löwe et al. 2019, tables 1 and 2: where the gradient stops, the loss, and the
# accuracy in
# percent of a linear probe on the last module of the encoder.
GIM_ROWS = {
  ('gim_stl10', 'gim'): (None, 'infonce', 81.9),
  ('gim_stl10', 'cpc'): ((), 'infonce', 80.5),
  ('gim_stl10', 'greedy_supervised'): (None, 'supervised', 65.2),
  ('gim_stl10', 'supervised'): ((), 'supervised', 71.4),
  ('gim_librispeech', 'gim'): (None, 'infonce', 99.4),
  ('gim_librispeech', 'cpc'): ((), 'infonce', 99.6),
  ('gim_librispeech', 'greedy_supervised'): (None, 'supervised', 98.7),
  ('gim_librispeech', 'supervised'): ((), 'supervised', 98.9),
}


@pytest.mark.parametrize(('name', 'row'), GIM_ROWS)
def test_the_rows_of_greedy_infomax_are_the_papers(name, row):
  stop_gradient_after, loss, accuracy = GIM_ROWS[name, row]
  config = load(name, row)
  objective = config.objective
  assert (objective.stop_gradient_after, objective.loss) == (
    stop_gradient_after,
    loss,
  )
  assert config.optimizer.learning_rate == 2e-4
  last = 'module_5'
  if name.endswith('stl10'):
    last = 'module_2'
    assert (objective.offsets, objective.negatives) == (5, 16)
    assert (objective.patch_size, objective.patch_stride) == (16, 8)
    assert config.data.crop == 64 and config.data.grayscale
    # 300 epochs of 100,000 images without labels, or of the 5,000 with.
    images = 100_000 if config.data.unlabelled else 5000
    epoch = images // config.batch_size
    assert config.steps / epoch == pytest.approx(300, rel=0.01)
    assert config.data.unlabelled == (loss == 'infonce')
  else:
    assert (objective.offsets, objective.negatives) == (12, 10)
    assert config.data.window == 20_480
    assert objective.num_classes == 251
  # A probe of the paper's number is one of the encoder's taps.
  assert config.paper[last] == accuracy
  made = config_lib.make_objective(config)
  batch = batch_of(config)
  params, model_state = jax.eval_shape(made.init, jax.random.key(0), batch)
  taps = jax.eval_shape(made.encode, params, model_state, batch)
  assert last in taps
  assert len(gim.all_modules(objective)) == int(last[-1]) + 1 + (
    (name, row) == ('gim_stl10', 'cpc')
  )


def test_a_file_of_one_config_is_found_as_a_row():
  for old, new in {
    'dim_cifar10_local_jsd': 'dim_cifar10:local_jsd',
    'vib_digits_sweep_k2': 'vib_digits:sweep_k2',
    'greedy_supervised_stl10': 'gim_stl10:greedy_supervised',
    'cpc_spoken_digits': 'gim_spoken_digits:cpc',
    'dim_cifar10_nothing': None,
  }.items():
    assert configs.renamed(old) == new


def test_a_row_that_is_not_there_is_named_beside_those_that_are():
  with pytest.raises(ValueError, match="No row 'jsb': this file has infonce"):
    load('dim_digits', 'jsb')


def parts_of(value):
  """Yields all that a change of a config could reach."""
  if dataclasses.is_dataclass(value):
    yield value
    value = {x.name: getattr(value, x.name) for x in dataclasses.fields(value)}
  elif isinstance(value, dict | list):
    yield value
  if isinstance(value, dict):
    for inner in value.values():
      yield from parts_of(inner)


@pytest.mark.parametrize('name', FAMILIES)
def test_no_two_rows_share_what_may_be_changed(name):
  family = FAMILIES[name]
  seen = []
  for row in [*getattr(family, 'ROWS', [None])] * 2:
    config = family.get_config(*([row] if row else []))
    # Flax modules and other frozen ones are replaced, not changed.
    parts = [
      part
      for part in parts_of(config)
      if isinstance(part, dict | list)
      or not type(part).__dataclass_params__.frozen
    ]
    ids = [id(part) for part in parts if not isinstance(part, nn.Module)]
    assert len(set(ids)) == len(ids), row
    assert not {id(x) for x in seen} & set(ids), row
    seen += parts  # Kept, so that no address is used twice.
