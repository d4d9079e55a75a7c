"""Whether what is to be loaded fits into memory.

Asked before it is allocated: the system would grant it, and kill the process
where it is filled.
"""

import os
import pathlib


def check(what: str, size: float, instead: str) -> None:
  """Raises ValueError where so many bytes are not available.

  Args:
    what: is to be loaded.
    size: bytes of it, copies included.
    instead: what to do, in a sentence.
  """
  free = available()
  if free is not None and size > free:
    raise ValueError(
      f'{what} takes {size:,.0f} bytes of memory ({size / 2**30:.3g} GiB) to '
      f'load, of which {free:,} ({free / 2**30:.3g} GiB) are available. '
      f'{instead}'
    )


def available() -> int | None:
  """Returns how many bytes are free; None where the system does not say."""
  known = [x for x in (_of_machine(), of_group()) if x is not None]
  return min(known, default=None)


def _of_machine() -> int | None:
  try:
    with open('/proc/meminfo', encoding='ascii') as file:
      for line in file:
        if line.startswith('MemAvailable:'):
          return int(line.split()[1]) * 1024
  except OSError:
    pass
  try:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    return None


def of_group(
  membership: str = '/proc/self/cgroup', root: str = '/sys/fs/cgroup'
) -> int | None:
  """Returns the bytes that this process's control group has left.

  Containers and jobs of a scheduler have one, whose limit is not the machine's.

  Args:
    membership: the file that names the group.
    root: the folder of all groups (version 2).

  Returns:
    The least of the group and those that hold it; None without a limit.
  """
  left = []
  try:
    lines = pathlib.Path(membership).read_text(encoding='utf-8').splitlines()
  except OSError:
    return None
  names = [line[3:].strip('/') for line in lines if line.startswith('0::')]
  for name in names[:1]:
    # A container may show its group as the root, under whatever name.
    for inner in (pathlib.PurePath(name), *pathlib.PurePath(name).parents):
      try:
        group = pathlib.Path(root) / inner
        limit = (group / 'memory.max').read_text(encoding='ascii').strip()
        used = int((group / 'memory.current').read_text(encoding='ascii'))
        pairs = (group / 'memory.stat').read_text(encoding='ascii').split()
        stat = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if limit != 'max':
          # Files that are kept in memory leave when it is needed.
          kept = int(stat.get('inactive_file', 0))
          left.append(max(0, int(limit) - used + kept))
      except (OSError, ValueError):
        continue
  return min(left, default=None)
