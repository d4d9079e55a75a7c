"""Streams: the same examples as in memory, whoever reads them."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from dim_jax.data import augment, batches, decode, sources, stream
from dim_jax.objective import Objective
from dim_jax.training import feed, loop, parallel
from dim_jax.training import step as step_lib

_REAL = os.environ.get('TFDS_DATA_DIR')


@pytest.fixture(scope='module')
def birds(tmp_path_factory):
  """Two classes of 20 images in train/, 3 in test/, and 7 without."""
  root = tmp_path_factory.mktemp('birds')
  rng = np.random.default_rng(0)
  for folder, count in (
    ('train/kite', 20),
    ('train/owl', 20),
    ('test/kite', 3),
    ('test/owl', 3),
    ('unlabelled', 7),
  ):
    (root / folder).mkdir(parents=True)
    for i in range(count):
      # Gray or in colour, high or wide.
      shape = (6 + i % 3, 7, 3)[: 2 + i % 2]
      pixels = rng.integers(0, 256, shape, np.uint8)
      Image.fromarray(pixels).save(root / folder / f'{i}.png')
  return root


def _in_memory(root, split, tmp_path, **settings):
  return sources.load(
    str(root), split, cache_dir=tmp_path, progress=False, **settings
  )


def _steps(found, seed, step, count, batch_size, **settings):
  return list(
    found.batches(seed, step, count, batch_size=batch_size, **settings)
  )


# --- the same examples --------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'validation', 'test', 'unlabelled'])
def test_every_split_of_a_folder_is_as_in_memory(birds, split, tmp_path):
  settings = {'image_size': 5, 'validation': 0.25}
  whole = _in_memory(birds, split, tmp_path, **settings)
  found = sources.load_stream(str(birds), split, **settings)
  assert found.num_examples == len(whole.labels['class'])
  assert found.class_names == whole.class_names['class']
  assert (found.name, found.note) == (whole.name, whole.note)
  read = found.read(np.arange(found.num_examples))
  np.testing.assert_array_equal(read['image'], whole.inputs)
  np.testing.assert_array_equal(read['label'], whole.labels['class'])
  assert read['image'].dtype == np.uint8
  assert read['label'].dtype == np.int32


def test_batches_are_those_of_batch_indices_from_any_step_on(birds, tmp_path):
  whole = _in_memory(birds, 'train', tmp_path, image_size=5)
  found = sources.load_stream(str(birds), 'train', image_size=5)
  # 36 images, 3 steps an epoch: so 8 steps are of three epochs.
  order = batches.batch_indices(7, 0, 8, batch_size=12, num_examples=36)
  steps = _steps(found, 7, 0, 8, 12)
  assert len(steps) == 8
  for rows, step in zip(order, steps, strict=True):
    np.testing.assert_array_equal(step['image'], whole.inputs[rows])
    np.testing.assert_array_equal(step['label'], whole.labels['class'][rows])
  for before, after in zip(steps[5:], _steps(found, 7, 5, 3, 12), strict=True):
    np.testing.assert_array_equal(before['image'], after['image'])
  assert _steps(found, 7, 8, 0, 12) == []


def test_digits_need_no_files():
  whole = sources.load('digits', 'validation')
  found = sources.load_stream('digits', 'validation')
  read = found.read(np.array([3, 0]))
  np.testing.assert_array_equal(read['image'], whole.inputs[[3, 0]])
  assert found.class_names == whole.class_names['class']
  assert (found.name, found.note) == (whole.name, whole.note)


@pytest.mark.skipif(
  not _REAL or not any(pathlib.Path(_REAL).glob('cifar10/*/*.array_record*')),
  reason='TFDS_DATA_DIR names no folder with cifar10 prepared',
)
def test_real_records_are_read_in_any_order():
  found = sources.load_stream('cifar10', 'test', image_size=32)
  some, one = found.read(np.array([49, 0, 7])), found.read(np.array([7]))
  np.testing.assert_array_equal(some['image'][2], one['image'][0])
  assert some['label'][2] == one['label'][0]


# --- who reads what -----------------------------------------------------------


def _counted(num_examples=24):
  """A stream of numbers, and the list of all positions that it was read at."""
  seen = []

  def read(rows):
    seen.extend(rows.tolist())
    return {'image': rows.astype(np.int32)}

  return stream.Stream(num_examples, read), seen


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_each_process_reads_its_own_slice_of_the_same_batches(processes):
  order = batches.batch_indices(0, 2, 3, batch_size=8, num_examples=24)
  size = 8 // processes
  parts = []
  for process in range(processes):
    found, seen = _counted()
    columns = np.arange(process * size, (process + 1) * size)
    parts.append(
      [x['image'] for x in _steps(found, 0, 2, 3, 8, columns=columns)]
    )
    # Beside position 0, whose size tells how far to read ahead.
    assert sorted(seen) == sorted([0, *order[:, columns].ravel().tolist()])
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), order)


def test_threads_read_ahead_of_the_step_but_not_without_end(monkeypatch):
  monkeypatch.setattr(stream, 'BYTES', 5 * 8 * 4)  # five steps
  found, seen = _counted(80)
  steps = found.batches(0, 0, 100, batch_size=8)
  next(steps)
  for _ in range(200):
    if len(seen) >= 1 + 8 * 6:
      break
    time.sleep(0.02)
  time.sleep(0.1)
  # The size, the step that was taken, and five more.
  assert len(seen) == 1 + 8 * 6
  steps.close()
  for _ in range(200):
    if not any('grain' in thread.name for thread in threading.enumerate()):
      break
    time.sleep(0.02)
  assert not [t for t in threading.enumerate() if 'grain' in t.name]


def test_large_steps_are_read_in_pieces_by_several_threads(monkeypatch):
  monkeypatch.setattr(decode, 'cores', lambda: 7)
  monkeypatch.setattr(stream, 'BYTES', 0)  # No more than two steps ahead.
  lock, together = threading.Lock(), threading.Event()
  reading, most = 0, 0

  def read(rows):
    nonlocal reading, most
    if len(rows) > 1:
      with lock:
        reading += 1
        most = max(most, reading)
      if most == 8:
        together.set()
      together.wait(10)
      with lock:
        reading -= 1
    return {'image': rows.astype(np.int32)}

  found = stream.Stream(1000, read)
  order = batches.batch_indices(3, 5, 4, batch_size=250, num_examples=1000)
  columns = np.arange(1, 250)  # 249 examples, 8 pieces of 31 or 32.
  steps = _steps(found, 3, 5, 4, 250, columns=columns)
  np.testing.assert_array_equal([x['image'] for x in steps], order[:, columns])
  assert most == 8  # A core each, and one more.


_SCRIPT = """
import numpy as np
from dim_jax.data import stream
found = stream.of_arrays({'image': np.arange(6)})
for batch in found.batches(0, 0, 4, batch_size=3):
  print(batch['image'].tolist())
"""


def test_a_plain_script_that_parsed_no_flags_streams():
  run = subprocess.run(
    [sys.executable, '-c', _SCRIPT],
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
  )
  order = batches.batch_indices(0, 0, 4, batch_size=3, num_examples=6)
  assert run.stdout.splitlines() == [str(row.tolist()) for row in order], run


# --- errors -------------------------------------------------------------------


def test_a_file_that_breaks_is_named_when_it_is_read(birds, tmp_path):
  root = tmp_path / 'sea'
  root.mkdir()
  for i in range(5):
    pixels = np.random.default_rng(i).integers(0, 256, (30, 30, 3), np.uint8)
    Image.fromarray(pixels).save(root / f'{i}.png')
  found = sources.load_stream(str(root), 'train', validation=0)
  for path in root.iterdir():
    path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(decode.CorruptError, match=r'\d.png cannot be decoded'):
    _steps(found, 0, 0, 2, 2)


@pytest.mark.parametrize(
  ('name', 'split', 'message'),
  [
    ('cifar', 'train', "Did you mean 'cifar10'"),
    ('digits', 'unlabelled', 'Only stl10'),
    ('mnist', 'train', 'not prepared in'),
  ],
)
def test_what_memory_refuses_streams_refuse(name, split, message, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    sources.load_stream(name, split, data_dir=tmp_path)


def test_a_batch_larger_than_the_set_is_refused():
  found, _ = _counted(4)
  with pytest.raises(ValueError, match='larger than the 4 training examples'):
    _steps(found, 0, 0, 1, 8)


# --- training -----------------------------------------------------------------


def _network():
  """A convolution and a linear probe of its means, with noise."""

  def init(rng, batch):
    channels = batch['image'].shape[-1]
    return {
      'encoder': 0.1 * jax.random.normal(rng, (3, 3, channels, 4)),
      'probe': jnp.zeros((4, 2)),
    }, jnp.zeros(4)

  def encode(params, model_state, batch):
    del model_state
    x = batch['image'].astype(jnp.float32) / 127.5 - 1
    x = jax.lax.conv_general_dilated(
      x,
      params['encoder'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return {'y': jax.nn.relu(x).mean((1, 2))}

  def loss(params, model_state, batch, rng):
    noise = 0.01 * jax.random.normal(rng, (4,))
    y = encode(params, None, batch)['y'] + noise[None]
    logits = y @ params['probe']
    value = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    ).mean()
    return value, ({'probe/loss': value}, 0.9 * model_state + 0.1 * noise)

  return Objective(init, loss, encode)


def _flip(rng, images, positions):
  return augment.random_flip(augment.example_keys(rng, positions), images)


def _fit(run_dir, data, **changes):
  settings = {
    'batch_size': 8,
    'steps': 6,
    'log_every': 3,
    'checkpoint_every': 3,
    'devices': 2,
    'show_progress': False,
  }
  return loop.fit(
    _network(),
    optax.adam(1e-2),
    data,
    run_dir,
    loop.Settings(**(settings | changes)),
    augment=_flip,
  )


def _assert_same(a, b):
  jax.tree.map(
    np.testing.assert_array_equal,
    (a.params, a.model_state, a.opt_state),
    (b.params, b.model_state, b.opt_state),
  )


def test_a_streamed_run_that_was_killed_is_the_run_in_memory(
  birds, tmp_path, monkeypatch
):
  found = _in_memory(birds, 'train', tmp_path, image_size=5)
  data = {'image': found.inputs, 'label': found.labels['class']}
  whole = _fit(tmp_path / 'memory', data)
  streamed = sources.load_stream(str(birds), 'train', image_size=5)
  monkeypatch.setattr(feed, 'STREAM_BYTES', 1)  # parts of one step
  _fit(tmp_path / 'stream', streamed, steps=3)
  _assert_same(_fit(tmp_path / 'stream', streamed), whole)


def test_pmap_takes_examples_as_it_takes_their_indices():
  mesh = parallel.make_mesh(2)
  objective, optimizer = _network(), optax.adam(1e-2)
  rng = np.random.default_rng(0)
  data = {
    'image': rng.integers(0, 256, (12, 5, 5, 1), np.uint8),
    'label': rng.integers(0, 2, 12).astype(np.int32),
  }
  chunk = loop.make_chunk(
    objective, optimizer, mesh, form='pmap', augment=_flip
  )
  order = batches.batch_indices(0, 0, 2, batch_size=4, num_examples=12)
  examples = jax.device_put(
    {name: x[order] for name, x in data.items()}, parallel.columns(mesh)
  )
  resident = parallel.replicate(data, mesh)
  ends = []
  for source in (
    (resident, parallel.put_columns(order, mesh)),
    ({}, examples),
  ):
    state = step_lib.init_state(objective, optimizer, data, jax.random.key(0))
    ends.append(chunk(parallel.replicate(state, mesh), *source)[0])
  _assert_same(*ends)
