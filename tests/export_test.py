"""An encoder in a file: read elsewhere, by NumPy alone, and never by half."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dim_jax
from dim_jax import config as config_lib
from dim_jax import export as export_lib
from dim_jax.commands import export as export_command
from dim_jax.networks import encoders, greedy_modules
from dim_jax.objectives import dim, gim, vib
from dim_jax.runs import model_card, provenance
from dim_jax.training import checkpoint
from dim_jax.training import step as step_lib

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = (4, 4, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)


def mlp_config(**changes):
  defaults = {
    'encoder': encoders.MLPCode(units=(6, 5), code=3),
    'critic_units': 4,
    'local_feature': 'input',
    'map_feature': 'fc',
    'num_classes': 3,
  }
  return config_lib.ExperimentConfig(
    objective=dim.Config(**(defaults | changes)), average=0.9, seed=4
  )


def drawn(config, shape=SHAPE):
  """An encoder with parameters from NumPy, which need no compilation."""
  objective = config_lib.make_objective(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  batch = {'image': jax.ShapeDtypeStruct((2, *shape), jnp.uint8)}
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda x: jnp.asarray(rng.uniform(0.1, 1, x.shape), x.dtype),
    jax.eval_shape(objective.init, key, batch),
  )
  return dim_jax.Encoder(config, 7, variables, shape, False)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run's folder, two steps long, whose last parameters are no average."""
  run_dir = tmp_path_factory.mktemp('runs') / 'mlp'
  run_dir.mkdir()
  config = mlp_config()
  params, model_state = drawn(config).variables
  optimizer = step_lib.make_optimizer(
    config.optimizer, {}, params, config.average
  )
  opt_state = jax.tree.map(
    lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)),
    jax.eval_shape(optimizer.init, params),
  )
  # Two steps have a weight of 1 - 0.9**2 = 0.19, so the average is what the
  # parameters are, plus a half.
  average = jax.tree.map(lambda x: 0.19 * (x + 0.5), params)
  opt_state = (opt_state[0], step_lib.AverageState(jnp.asarray(2), average))
  state = step_lib.TrainState(
    jnp.asarray(2), params, model_state, opt_state, jax.random.key(4)
  )
  config_lib.save(config, run_dir, SHAPE)
  with checkpoint.Checkpoints(run_dir, owner=True) as checkpoints:
    checkpoints.save(2, state)
  return run_dir


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
  path = tmp_path_factory.mktemp('files') / 'encoder.npz'
  dim_jax.load(run).export(path)
  return path


def python(code, *arguments, executable=sys.executable):
  done = subprocess.run(
    [executable, '-c', code, *map(str, arguments)],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize(
  ('shape', 'match'),
  [
    ((2, 4, 4, 3), r'1-channel images, got shape \(2, 4, 4, 3\): convert'),
    ((2, 5, 5, 1), r'shape \(4, 4, 1\) and cannot take .* shape \(5, 5, 1\)'),
    ((4, 4, 1), r'\(4, 4, 1\)'),
    ((0, 4, 4, 1), 'must be an example'),
  ],
)
def test_images_that_an_encoder_cannot_take_are_named(shape, match):
  with pytest.raises(ValueError, match=match):
    drawn(mlp_config())(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
  ('low', 'high', 'match'),
  [
    (0, 255, r'in \[-1, 1\], got values from 0 to 255: pass uint8, or x / 127'),
    (-2, 1, 'got values from -2 to 1'),
    (np.nan, 1, 'got values from nan'),
  ],
)
def test_floats_of_another_scale_are_refused(low, high, match):
  images = np.full((2, 4, 4, 1), low, np.float32)
  images[0] = high
  with pytest.raises(ValueError, match=match):
    drawn(mlp_config())(images)


def test_floats_from_0_to_1_are_warned_of():
  encoder = drawn(mlp_config())
  images = np.random.default_rng(0).random((2, 4, 4, 1), np.float32)
  with pytest.warns(
    UserWarning, match=r'pixels are in \[0, 1\], .* 2 \* x - 1'
  ):
    encoder(images)
  # What resampling adds beyond white is taken as it is.
  encoder(np.float32(2.1) * images - 1)


def test_another_process_reads_the_same_bits(run, exported, tmp_path):
  expected = dim_jax.load(run)(IMAGES)
  np.save(tmp_path / 'images.npy', IMAGES)
  code = """if True:
    import sys
    import numpy as np
    import dim_jax
    path, images, out = sys.argv[1:]
    encoder = dim_jax.load(path)
    assert encoder.step == 2 and encoder.averaged
    np.savez(out, **encoder(np.load(images)))
  """
  python(code, exported, tmp_path / 'images.npy', tmp_path / 'found.npz')
  with np.load(tmp_path / 'found.npz') as found:
    assert set(found.files) == set(expected) == {'input', 'fc', 'y'}
    for tap, values in expected.items():
      np.testing.assert_array_equal(found[tap], values)
  # It is the average, and not the last parameters.
  last = dim_jax.load(run, average=False)
  assert not last.averaged
  with np.load(exported) as file:
    np.testing.assert_allclose(
      file['params/encoder/y/kernel'],
      last.variables[0]['encoder']['y']['kernel'] + 0.5,
      rtol=1e-5,
    )


# What a reader without this project may do, written again.
NUMPY_ALONE = """if True:
  import hashlib, json, sys
  for name in ('jax', 'flax', 'ml_dtypes', 'dim_jax'):
    sys.modules[name] = None  # To import it would raise.
  import numpy as np
  path, images = sys.argv[1:]
  file = np.load(path, allow_pickle=False)
  header = json.loads(str(file['json']))
  arrays = {name: file[name] for name in file.files if name != 'json'}

  told = header.pop('checksum')
  digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
  for name in sorted(arrays):
    x = arrays[name]
    digest.update(f'{name} {x.dtype.str} {x.shape}'.encode() + x.tobytes())
  assert digest.hexdigest() == told

  def dense(x, name):
    layer = f'params/encoder/{name}'
    return x @ arrays[f'{layer}/kernel'] + arrays[f'{layer}/bias']

  x = np.load(images).reshape(5, -1) / 127.5 - 1
  for layer in ('mlp/fc_0', 'mlp/fc_1'):
    x = np.maximum(dense(x.astype(np.float64), layer), 0)
  print(json.dumps({'y': dense(x, 'y').tolist(), 'step': header['step']}))
"""


@pytest.mark.parametrize('version', [None, '3.12', '3.13', '3.14'])
def test_numpy_alone_recomputes_the_code(exported, tmp_path, version):
  executable = sys.executable
  if version is not None:
    executable = shutil.which(f'python{version}')
    if executable is None:
      pytest.skip(f'no python{version} on PATH')
    can = subprocess.run(
      [executable, '-c', 'import numpy'], capture_output=True, check=False
    )
    if can.returncode:
      pytest.skip(f'{executable} has no NumPy')
  np.save(tmp_path / 'images.npy', IMAGES)
  found = json.loads(
    python(
      NUMPY_ALONE, exported, tmp_path / 'images.npy', executable=executable
    )
  )
  assert found['step'] == 2
  expected = dim_jax.load(exported)(IMAGES)['y']
  np.testing.assert_allclose(found['y'], expected, rtol=1e-5, atol=1e-5)
  assert np.abs(expected).max() > 0.1


def stored(path):
  """First two levels of what the file holds."""
  with np.load(path, allow_pickle=False) as file:
    assert all(file[name].dtype.kind in 'biufU' for name in file.files)
    return {'/'.join(n.split('/')[1:3]) for n in file.files if n != 'json'}


def test_a_file_has_what_encoding_reads(tmp_path):
  bottleneck = vib.Config(
    units=(6,), code=2, marginal='mixture', components=2, num_classes=3
  )
  block = functools.partial(greedy_modules.ResNetModule, bottleneck=False)
  greedy = gim.Config(
    modules=(block(1, 4), block(1, 3)),
    patch_size=2,
    patch_stride=1,
    offsets=1,
    skip=0,
  )
  for objective, parts in (
    (mlp_config().objective, {'encoder/mlp', 'encoder/y'}),
    # Their codes are read by the decoder; 'beta' and the marginal are not.
    (bottleneck, {'encoder/body', 'encoder/head', 'decoder/logits'}),
    # Neither scores nor probes.
    (greedy, {'module_0/network', 'module_1/network'}),
  ):
    config = config_lib.ExperimentConfig(objective=objective)
    encoder = drawn(config)
    path = tmp_path / f'{type(objective).__module__}.npz'
    encoder.export(path)
    assert stored(path) == parts
    found, expected = dim_jax.load(path)(IMAGES), encoder(IMAGES)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_all_groups_and_their_state(tmp_path):
  # Batch statistics, and a tuple of vectors for the spectral norms.
  config = config_lib.ExperimentConfig(
    objective=dim.Config(
      encoder=encoders.ConvEncoder(
        image_size=4,
        convs=(encoders.ConvLayer(2, 3, 2, 1),),
        fcs=(3,),
        local=0,
        code=2,
      ),
      critic_units=4,
      spectral_penalty=0.1,
    )
  )
  encoder = drawn(config)
  encoder.export(tmp_path / 'all.npz', all_groups=True)
  loaded = dim_jax.load(tmp_path / 'all.npz')
  assert config_lib.to_json(loaded.config) == config_lib.to_json(config)
  jax.tree.map(
    np.testing.assert_array_equal, loaded.variables, encoder.variables
  )
  encoder.export(tmp_path / 'part.npz')
  part = dim_jax.load(tmp_path / 'part.npz')
  assert set(part.variables[0]) == {'encoder'}
  statistics = part.variables[1]['encoder']['batch_stats']['fc_0_norm']
  assert set(statistics) == {'mean', 'var'}
  jax.tree.map(np.testing.assert_array_equal, part(IMAGES), encoder(IMAGES))


def test_types_that_numpy_lacks(tmp_path):
  values = [1.0, -0.3, 3e38, 1e-40]
  tree = {
    'half': jnp.asarray(values, jnp.bfloat16),
    'key': jax.random.key(3),
    'none': {'here': {}},
    'pair': (jnp.arange(3), {'x': jnp.ones(())}, ()),
    'flag': np.asarray([True, False]),
  }
  path = tmp_path / 'tree.npz'
  export_lib.write(path, {'about': (1, 2)}, tree)
  stored(path)
  header, found = export_lib.read(path)
  assert header['about'] == [1, 2]
  assert header['dtypes'] == {'half': 'bfloat16', 'key': 'fry'} or header[
    'dtypes'
  ] == {'half': 'bfloat16', 'key': 'threefry2x32'}
  assert jax.tree.structure(found) == jax.tree.structure(tree)
  for a, b in zip(*map(jax.tree.leaves, (found, tree)), strict=True):
    assert a.dtype == b.dtype
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b)
  # The upper half of a float32's bits.
  with np.load(path) as file:
    bits = file['half'].astype(np.uint32) << 16
  np.testing.assert_array_equal(
    bits.view(np.float32), np.asarray(tree['half'], np.float32)
  )


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'a': {'b': 'text'}}, r"'a/b' is a str: only trees"),
    ({'a/b': np.ones(1)}, r"holds 'a/b': no key may have"),
  ],
)
def test_what_is_no_tree_of_arrays_is_refused(tree, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    export_lib.write(tmp_path / 'x.npz', {}, tree)
  assert not list(tmp_path.iterdir())


def rewritten(path, **changes):
  """The file with other arrays or header, as an ordinary .npz."""
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  header = json.loads(str(arrays['json']))
  for name, value in changes.items():
    if name in header:
      header[name] = value
    else:
      arrays[name] = value
  np.savez(path, **(arrays | {'json': np.array(json.dumps(header))}))


def cut(path):
  path.write_bytes(path.read_bytes()[:-400])


def flip(path):
  data = bytearray(path.read_bytes())
  at = data.index(b'mlp/fc_0/kernel') + 300
  data[at] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (cut, r'is damaged or cut short \(File is not a zip file\): copy or'),
    (flip, r'is damaged or cut short \(Bad CRC-32.*\): copy or export'),
    (
      lambda path: rewritten(
        path, **{'params/encoder/y/bias': np.zeros(3, np.float32)}
      ),
      r'its checksum is not that of what it holds',
    ),
    (lambda path: rewritten(path, step=3), r'its checksum is not that'),
    (
      lambda path: rewritten(path, format_version=2),
      r'has version 2 of the format, .* up to 1: install a later dim_jax',
    ),
    (
      lambda path: rewritten(path, **{'x': np.asarray([{}], object)}),
      r'Object arrays cannot be loaded when allow_pickle=False',
    ),
    (
      lambda path: np.savez(path, weight=np.ones(2)),
      r"some other \.npz: it has the arrays \['weight'\] and no header",
    ),
    (lambda path: path.write_text('hello'), r"its first bytes are b'hell'"),
    (lambda path: path.write_bytes(b''), r"its first bytes are b''"),
  ],
  ids=lambda x: getattr(x, '__name__', None),
)
def test_damage_is_told_in_a_line(damage, message, exported, tmp_path):
  path = tmp_path / 'encoder.npz'
  shutil.copy(exported, path)
  damage(path)
  with pytest.raises(ValueError, match=message) as error:
    dim_jax.load(path)
  assert '\n' not in str(error.value)
  assert repr(str(path)) in str(error.value)


def test_what_a_file_does_not_have_is_not_made_up(exported):
  with pytest.raises(ValueError, match=r'holds step 2 alone, not 0'):
    dim_jax.load(exported, 0)
  with pytest.raises(ValueError, match=r'holds the average .* alone'):
    dim_jax.load(exported, average=False)
  assert dim_jax.load(exported, 2).step == 2


def test_a_file_is_never_overwritten_nor_written_by_half(
  exported, tmp_path, monkeypatch
):
  before = exported.read_bytes()
  encoder = dim_jax.load(exported)
  with pytest.raises(FileExistsError, match=r'exists already: choose another'):
    encoder.export(exported)
  assert exported.read_bytes() == before

  def fail(file, **arrays):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(np, 'savez', fail)
  with pytest.raises(OSError, match='disk full'):
    encoder.export(tmp_path / 'new.npz')
  assert not (tmp_path / 'new.npz').exists()


def test_a_card_never_takes_the_place_of_its_file(run, tmp_path, monkeypatch):
  with pytest.raises(SystemExit, match='is the name of the card'):
    export_command.main([str(run), f'--file={tmp_path / "x.md"}'])

  def fail(*arguments):
    raise ValueError('no card')

  monkeypatch.setattr(model_card, 'card', fail)
  with pytest.raises(SystemExit, match='no card'):
    export_command.main([str(run), f'--file={tmp_path / "x.npz"}'])
  # Nothing is in the way of the next try.
  assert not os.listdir(tmp_path)


def test_command_writes_a_card_of_what_was_measured(run, tmp_path, capsys):
  folder = run / 'evaluation'
  folder.mkdir(exist_ok=True)
  probes = {
    'dataset': 'digits',
    'note': 'A copy in JPEG.',
    'step': 2,
    'hardware': 'one abacus',
    'date': '2026-01-02',
    'protocols': {'abc': {'split': 'test'}},
    'results': [
      {
        'features': 'trained',
        'tap': 'y',
        'label': 'class',
        'probe': 'linear',
        'mean': 0.912,
        'std': 0.013,
        'values': [0.9, 0.924],
        'protocol_hash': 'abc',
      }
    ],
  }
  # Of another step: not this encoder's.
  stale = {'step': 1}
  (folder / 'probes.json').write_text(json.dumps(probes))
  (folder / 'density.json').write_text(json.dumps(stale))
  out = tmp_path / 'mine.npz'
  export_command.main([str(run), f'--file={out}'])
  assert capsys.readouterr().out.split() == [
    str(out),
    str(tmp_path / 'mine.md'),
  ]
  card = (tmp_path / 'mine.md').read_text()
  for line in (
    '| class | y | trained | linear | 91.2 ± 1.3 | 2 | abc |',
    '`digits`. A copy in JPEG.',
    'Protocol abc: `{"split": "test"}`',
    'density.json is of step 1 and left out.',
    "encoder = dim_jax.load('mine.npz')",
    '| parameters | a moving average, decay 0.9 |',
    # 16 x 6 + 6, 6 x 5 + 5, 5 x 3 + 3.
    '| groups | encoder: 155 parameters |',
    '"seed": 4,',
  ):
    assert line in card, line
  # The snippet of the card runs.
  snippet = card.split('```python\n')[2].split('```')[0]
  exec(snippet.replace('mine.npz', str(out)), scope := {})
  assert scope['array'].size
  scope['file'].close()
  with pytest.raises(SystemExit) as refused:
    export_command.main([str(run), f'--file={out}'])
  error = refused.value.code
  assert error.startswith(f'Error: {str(out)!r} exists already')
  assert '\n' not in error
  with pytest.raises(SystemExit, match='is not a run'):
    export_command.main([str(tmp_path)])


def test_the_commit_is_that_of_this_checkout(monkeypatch, tmp_path):
  # Installed into another project's checkout, the package is not of it.
  package = tmp_path / 'venv' / 'dim_jax'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('')
  subprocess.run(['git', 'init', '-q', str(tmp_path)], check=True)
  monkeypatch.setattr(dim_jax, '__file__', str(package / '__init__.py'))
  assert provenance.commit() is None
