"""Checkpoints that were damaged, could not be written, or are of threads."""

import concurrent.futures
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.training import checkpoint


def make_state(step):
  # What does not compress, so that Orbax would read changed bytes.
  values = np.random.default_rng(step).normal(size=(40, 50))
  return {'kernel': jnp.asarray(values, jnp.float32), 'step': jnp.int32(step)}


@pytest.fixture
def run_dir(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep=3, owner=True) as checkpoints:
    for step in (2, 4, 6):
      checkpoints.save(step, make_state(step))
  return tmp_path


def files_of(folder):
  found = [path for path in sorted(folder.rglob('*')) if path.is_file()]
  # Data and metadata: at least one file of each.
  assert len(found) > 3
  return found


def damage(path, how):
  data = path.read_bytes()
  if how == 'missing':
    path.unlink()
  elif how == 'cut':
    path.write_bytes(data[: len(data) // 2])
  else:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    path.write_bytes(changed)


@pytest.mark.parametrize('how', ['missing', 'cut', 'changed'])
def test_whichever_file_is_damaged_is_named(run_dir, how):
  folder = run_dir / 'checkpoints' / '6'
  for path in files_of(folder):
    if path.name == 'contents.json':
      continue
    whole = path.read_bytes()
    damage(path, how)
    found = checkpoint._damage(str(folder))
    assert found.startswith(str(path.relative_to(folder))), found
    path.write_bytes(whole)
  assert checkpoint._damage(str(folder)) == ''


def test_the_newest_whole_checkpoint_is_found_and_others_set_aside(run_dir):
  folder = run_dir / 'checkpoints'
  # The largest file is that of the arrays.
  damage(max(files_of(folder / '6'), key=os.path.getsize), 'changed')
  damage(folder / '4' / '_CHECKPOINT_METADATA', 'missing')
  said = []
  with checkpoint.Checkpoints(run_dir, keep=3, owner=True) as checkpoints:
    with pytest.raises(
      ValueError, match=r'Checkpoint 6 .* is damaged \(.*changed bytes\)'
    ):
      checkpoints.restore(make_state(0))
    assert checkpoints.recover(said.append) == 2
    assert checkpoints.steps == [2]
    restored = checkpoints.restore(make_state(0), 2)
    # The run writes those steps again.
    checkpoints.save(4, make_state(4))
    assert checkpoints.steps == [2, 4]
    assert checkpoints.recover(said.append) == 4
  np.testing.assert_array_equal(restored['kernel'], make_state(2)['kernel'])
  assert int(restored['step']) == 2
  aside = run_dir / 'damaged'
  assert sorted(path.name for path in aside.iterdir()) == ['4', '6']
  assert said[1] == (
    f'Checkpoint 4 is damaged (_CHECKPOINT_METADATA is missing) and moved to '
    f'{aside}; falling back to checkpoint 2.'
  )
  assert said[0].startswith('Checkpoint 6 is damaged (state')
  assert len(said) == 2


def test_every_process_takes_the_word_of_the_first(run_dir, monkeypatch):
  looked_at = []
  whole = checkpoint._damage

  def damage(path):
    looked_at.append(path)
    return whole(path)

  with checkpoint.Checkpoints(run_dir, keep=3, owner=True) as checkpoints:
    monkeypatch.setattr(checkpoint, '_damage', damage)
    monkeypatch.setattr(checkpoint.parallel, 'of_first_process', lambda x: 6)
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    assert checkpoints.recover(print) == 6
    monkeypatch.setattr(jax, 'process_index', lambda: 0)
    checkpoints.restore(make_state(0), 6)
  assert looked_at == []


def test_all_damaged_is_an_error_that_leaves_them_where_they_are(run_dir):
  for step in (2, 4, 6):
    damage(run_dir / 'checkpoints' / str(step) / 'contents.json', 'cut')
  with checkpoint.Checkpoints(run_dir, keep=3, owner=True) as checkpoints:
    with pytest.raises(
      ValueError,
      match=r'All checkpoints in .* are damaged \(6: contents.json is',
    ):
      checkpoints.recover(print)
    assert checkpoints.steps == [2, 4, 6]


def test_a_checkpoint_without_checksums_is_taken_if_it_has_metadata(run_dir):
  # A process was killed between the two, or an older version wrote it.
  folder = run_dir / 'checkpoints' / '6'
  (folder / 'contents.json').unlink()
  with checkpoint.Checkpoints(run_dir) as checkpoints:
    restored = checkpoints.restore(make_state(0))
  np.testing.assert_array_equal(restored['kernel'], make_state(6)['kernel'])
  (folder / '_CHECKPOINT_METADATA').unlink()
  assert 'is missing' in checkpoint._damage(str(folder))


def test_another_model_is_no_damage(run_dir):
  with checkpoint.Checkpoints(run_dir, keep=3, owner=True) as checkpoints:
    assert checkpoints.recover(print) == 6
    step = jax.ShapeDtypeStruct((), jnp.int32)
    for name, shape, message in (
      ('bias', (3,), 'bias is missing there, float32 (3,) here'),
      (
        'kernel',
        (40, 51),
        'kernel is float32 (40, 50) there, float32 (40, 51) here',
      ),
    ):
      other = {name: jax.ShapeDtypeStruct(shape, jnp.float32), 'step': step}
      with pytest.raises(ValueError, match='does not fit this') as error:
        checkpoints.restore(other)
      assert message in str(error.value)
    with pytest.raises(ValueError, match=r'kernel is float32 .* missing here'):
      checkpoints.restore({'step': step})
    assert checkpoints.steps == [2, 4, 6]


def test_a_write_that_fails_keeps_the_checkpoint_before_it(tmp_path, capfd):
  # No file may grow beyond 2,000 bytes, where the arrays have 8,000.
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  with checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints:
    checkpoints.save(2, make_state(2))
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
  try:
    with (
      pytest.raises(
        OSError,
        match=r"Cannot write '.*checkpoints/4' \(File too large; [0-9,]+ b",
      ) as error,
      checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints,
    ):
      checkpoints.save(4, make_state(4))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert '\n' not in str(error.value)
  logged = capfd.readouterr()
  assert 'Traceback' not in logged.out + logged.err
  with checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints:
    assert checkpoints.recover(print) == 2
    checkpoints.save(4, make_state(4))
    restored = checkpoints.restore(make_state(0))
  np.testing.assert_array_equal(restored['kernel'], make_state(4)['kernel'])


@pytest.mark.parametrize('impl', ['rbg', 'unsafe_rbg', 'threefry2x32'])
def test_keys_keep_the_implementation_that_they_were_saved_with(tmp_path, impl):
  saved = {'rng': jax.random.key(3, impl=impl)}
  with checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints:
    assert checkpoints.key_impl() is None
    checkpoints.save(1, saved)
    assert checkpoints.key_impl() == impl
    # What a process with the usual keys expects.
    restored = checkpoints.restore({'rng': jax.random.key(0)})
  assert restored['rng'].dtype == saved['rng'].dtype
  np.testing.assert_array_equal(
    jax.random.normal(restored['rng'], 3), jax.random.normal(saved['rng'], 3)
  )


def test_numbers_of_another_width_are_loaded_but_not_trained_on(tmp_path):
  saved = {'w': jnp.arange(3.0), 'step': jnp.int32(4)}
  with checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints:
    checkpoints.save(1, saved)
    with jax.enable_x64(True):
      wide = {'w': jnp.arange(3.0), 'step': jnp.asarray(4)}
      assert wide['w'].dtype == jnp.float64
      with pytest.raises(
        ValueError,
        match=r'step is int32 \(\) there, int64 \(\) here\): set '
        'JAX_ENABLE_X64=0, as it was trained',
      ):
        checkpoints.restore(wide)
      loaded = checkpoints.restore(wide, any_width=True)
    assert {k: x.dtype for k, x in loaded.items()} == {
      'w': jnp.float32,
      'step': jnp.int32,
    }
    np.testing.assert_array_equal(loaded['w'], saved['w'])
    with pytest.raises(ValueError, match=r'does not fit this config \(w is'):
      checkpoints.restore({'w': jnp.zeros(4)}, any_width=True)


def test_wide_numbers_are_loaded_where_there_are_none(tmp_path):
  with jax.enable_x64(True):
    with checkpoint.Checkpoints(tmp_path, owner=True) as checkpoints:
      checkpoints.save(1, {'w': jnp.arange(3.0) / 3})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    loaded = checkpoints.restore({'w': jnp.zeros(3)}, any_width=True)
  assert loaded['w'].dtype == jnp.float32
  np.testing.assert_allclose(loaded['w'], np.arange(3) / 3, rtol=1e-7)


def test_threads_write_and_read_at_once(tmp_path):
  # Without a lock nearly all of these writes fail in Orbax.
  def work(number):
    folder = tmp_path / f'module_{number}'
    with checkpoint.Checkpoints(folder, keep=2, owner=True) as checkpoints:
      for step in range(10 * number, 10 * number + 5):
        checkpoints.save(step, make_state(step))
        restored = checkpoints.restore(make_state(0), step)
        expected = make_state(step)['kernel']
        np.testing.assert_array_equal(restored['kernel'], expected)
      return checkpoints.steps

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    steps = list(pool.map(work, range(4)))
  # The newest two of each.
  assert steps == [[10 * number + 3, 10 * number + 4] for number in range(4)]
