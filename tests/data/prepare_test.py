"""Preparing: what it refuses before it downloads anything, and says."""

import collections
import json
import os

import pytest

from dim_jax.data import prepare

_USAGE = collections.namedtuple('_USAGE', ['total', 'used', 'free'])


def _message(error):
  text = str(error.value)
  assert '\n' not in text
  return text


def _place_by_hand(root, names, content=b'not it'):
  manual = root / 'downloads/manual'
  manual.mkdir(parents=True)
  for name in names:
    (manual / name).write_bytes(content)
  return manual


@pytest.fixture
def offline(monkeypatch):
  def unknown(host, port):
    raise OSError(f'{host}:{port} not known')

  monkeypatch.setattr(prepare.urllib.request, 'getproxies', dict)
  monkeypatch.setattr(prepare.socket, 'getaddrinfo', unknown)


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ModuleNotFoundError) as error:
    prepare.prepare('mnist', os.fspath(tmp_path))
  assert 'tensorflow' in _message(error)
  assert 'pip install tensorflow' in _message(error)


def test_unknown_names_are_refused(tmp_path):
  with pytest.raises(ValueError, match="Did you mean 'mnist'"):
    prepare.prepare('mnst', os.fspath(tmp_path))
  with pytest.raises(ValueError, match='needs no files'):
    prepare.prepare('digits', os.fspath(tmp_path))


def test_without_network_it_says_what_to_place_where(tmp_path, offline):
  with pytest.raises(ConnectionError) as error:
    prepare._prepare('cifar10', tmp_path)
  message = _message(error)
  for word in (
    'Cannot reach www.cs.toronto.edu',
    f'Place cifar-10-binary.tar.gz in {tmp_path}/downloads/manual',
    'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
  ):
    assert word in message


def test_only_what_is_missing_is_asked_for(tmp_path, offline):
  names = [
    f'{part}-{kind}-ubyte.gz'
    for part in ('t10k', 'train')
    for kind in ('images-idx3', 'labels-idx1')
  ]
  _place_by_hand(tmp_path, names[:3])
  with pytest.raises(ConnectionError, match=f'Place {names[3]} in '):
    prepare._prepare('mnist', tmp_path)


def test_a_file_that_is_not_the_original_is_refused(tmp_path, offline, capfd):
  manual = _place_by_hand(tmp_path, ['cifar-10-binary.tar.gz'])
  with pytest.raises(ValueError) as error:
    prepare._prepare('cifar10', tmp_path)
  message = _message(error)
  for word in (
    f'{manual}/cifar-10-binary.tar.gz, has wrong checksum',
    # What CIFAR's own page does not give, and TFDS does.
    'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
    'size=6 bytes',
    'Delete that file',
  ):
    assert word in message
  assert not list((tmp_path / 'cifar10').glob('*/*'))


def test_too_little_room_is_told_before_anything_is_downloaded(
  tmp_path, offline, monkeypatch
):
  monkeypatch.setattr(
    prepare.shutil, 'disk_usage', lambda path: _USAGE(0, 0, 2**28)
  )
  # The archive of 162.17 MiB, as often as it is kept: 324.34 MiB, 0.317 GiB.
  with pytest.raises(OSError) as error:
    prepare._prepare('cifar10', tmp_path / 'new')
  for word in (
    '0.317 GiB',
    '0.158 GiB to',
    f'{tmp_path}/new has 0.25 GiB free',
  ):
    assert word in _message(error)
  assert not (tmp_path / 'new').exists()


def test_what_is_prepared_is_left_alone(tmp_path):
  folder = tmp_path / 'cifar10/3.0.2'
  folder.mkdir(parents=True)
  info = {'name': 'cifar10', 'version': '3.0.2', 'fileFormat': 'tfrecord'}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(FileExistsError, match=r'3.0.2 is already prepared'):
    prepare._prepare('cifar10', tmp_path)


def test_errors_pass_from_the_process_that_prepares(
  tmp_path, monkeypatch, capfd
):
  monkeypatch.setattr(prepare.importlib.util, 'find_spec', lambda name: True)
  _place_by_hand(tmp_path, ['cifar-10-binary.tar.gz'])
  with pytest.raises(ValueError, match='has wrong checksum'):
    prepare.prepare('cifar10', os.fspath(tmp_path))
  monkeypatch.setattr(prepare.sys, 'executable', '/bin/false')
  with pytest.raises(RuntimeError, match=r'ended early \(exit status 1'):
    prepare.prepare('cifar10', os.fspath(tmp_path))
