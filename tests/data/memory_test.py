"""How much memory is left: of the machine, and of the process's group."""

import os

import pytest

from dim_jax.data import memory


def test_available_memory_is_less_than_there_is():
  total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  assert 0 < memory.available() <= total


def group(folder, limit, used, kept=0):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'memory.max').write_text(f'{limit}\n')
  (folder / 'memory.current').write_text(f'{used}\n')
  (folder / 'memory.stat').write_text(f'anon 5\ninactive_file {kept}\n')


def test_the_narrowest_group_counts(tmp_path):
  root, member = tmp_path / 'groups', tmp_path / 'member'
  member.write_text('1:name=other:/elsewhere\n0::/job/step\n')

  def left():
    return memory.of_group(str(member), str(root))

  assert left() is None  # No such folders.
  group(root / 'job/step', 'max', 700)
  assert left() is None
  # What files take of it, 100, is given back when it is needed.
  group(root / 'job', 1000, 700, kept=100)
  assert left() == 1000 - 700 + 100
  group(root / 'job/step', 900, 700)
  assert left() == 900 - 700
  # A container sees its own group as the root.
  group(root, 750, 800)
  assert left() == 0
  member.write_text('0::/../unseen\n')
  assert left() == 0
  member.unlink()
  assert left() is None


def test_what_does_not_fit_says_what_to_do(monkeypatch):
  monkeypatch.setattr(memory, 'available', lambda: 2**30)
  memory.check('a set', 2**30, '')
  with pytest.raises(ValueError) as error:
    memory.check('a set', 1.5 * 2**30, 'Take less.')
  assert str(error.value) == (
    'a set takes 1,610,612,736 bytes of memory (1.5 GiB) to load, of which '
    '1,073,741,824 (1 GiB) are available. Take less.'
  )
  monkeypatch.setattr(memory, 'available', lambda: None)
  memory.check('a set', 2**60, '')
