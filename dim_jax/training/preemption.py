"""SIGTERM: the first asks a run to save and stop, the second ends it."""

import os
import signal
import socket
import sys
import threading
import time
from typing import Any

_TOGETHER = 2.0  # seconds in which several signals are one, as `timeout` sends


class Preemption:
  """Remembers a SIGTERM while it is open, and ends the process at a second.

  Python's handlers wait for the main thread, which a save to a folder that does
  not answer may hold for ever; so a thread of its own counts the signals.

  Attributes:
    asked: whether a SIGTERM came.
  """

  asked = False

  def __enter__(self) -> 'Preemption':
    self._before: Any = None
    # Python lets only the main thread set handlers.
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._ask)
      self._reader, self._writer = socket.socketpair()
      self._writer.setblocking(False)
      self._wakeup = signal.set_wakeup_fd(
        self._writer.fileno(), warn_on_full_buffer=False
      )
      threading.Thread(target=self._count, daemon=True).start()
    return self

  def _ask(self, *_: object) -> None:
    self.asked = True

  def __exit__(self, *_: object) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      signal.set_wakeup_fd(self._wakeup)
      self._writer.close()  # Ends the thread, which closes the other.

  def _count(self) -> None:
    """Reads the number of each signal that has a handler, as it comes."""
    first = 0.0
    with self._reader:
      while numbers := self._reader.recv(64):
        now = time.monotonic()
        if signal.SIGTERM not in numbers:
          continue
        first = first or now
        if now - first > _TOGETHER:
          sys.stdout.flush()
          os.write(
            2,
            b'Error: a second SIGTERM ended the run before it could save; the '
            b'same command continues from the newest checkpoint.\n',
          )
          os._exit(128 + signal.SIGTERM)
