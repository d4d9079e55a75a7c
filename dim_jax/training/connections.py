"""Connections between the processes of a job, beside those of JAX.

Process 0 is the hub of a star of TCP connections. Over them the processes
meet, compare what they were started with, and learn at once when one of them
ends. JAX's own service tells that up to 100 seconds later, with a stack of
C++ frames instead of a name; until all have joined it, it knows no names.

Messages are JSON, one a line.
"""

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

_BYTES = 2**16
_TURN = 0.2  # seconds between two looks at the clock
_OWN_WORDS = 2.0  # seconds in which a process may name its error itself


class Times:
  """How long hosts wait for one another, in seconds.

  Attributes:
    wait: for a host that is late at the start, at a barrier or in a save.
    silent: until a host that does not answer is given up.
    line: between two lines that say where a process is.
  """

  def __init__(self, wait: float):
    """Derives all times from the longest."""
    self.wait, self.silent, self.line = wait, wait / 10, wait / 5
    self.beat = self.silent / 6


class Lost(ValueError):
  """A process did not come, or came with other numbers."""


def meet(
  address: str, count: int, process: int, seconds: float
) -> tuple[dict[int, socket.socket], list[str]]:
  """Connects the processes of a job.

  Process 0 listens at the very port where JAX's coordinator will, which
  begins to listen only afterwards; so that no other port need be open.

  Args:
    address: HOST:PORT of process 0.
    count: how many processes there are.
    process: the number of this one.
    seconds: how long to wait.

  Returns:
    Connections by process: all others' at process 0, elsewhere that of process
    0; and the names of the hosts by process.

  Raises:
    Lost: some did not come; names them.
  """
  host, _, port = address.rpartition(':')
  until = time.monotonic() + seconds
  me = {'process': process, 'count': count, 'host': socket.gethostname()}
  if process:
    hub = _dial(host.strip('[]'), int(port), until, seconds, me)
    try:
      return {0: hub}, _introduce(hub, me, address, until)
    except Lost:
      hub.close()
      raise
  return _receive(address, count, until, seconds, me)


def _dial(
  host: str, port: int, until: float, seconds: float, me: dict[str, Any]
) -> socket.socket:
  """Connects to process 0 as soon as it listens."""
  while True:
    try:
      return socket.create_connection((host, port), timeout=5)
    except OSError as error:
      if time.monotonic() > until:
        raise Lost(
          f'process {me["process"]} of {me["count"]} on {me["host"]} waited '
          f'{seconds:.0f} s for process 0 at {host}:{port} ({error}): start it '
          'there, and let its port be reached from here.'
        ) from error
      time.sleep(_TURN)


def _introduce(
  hub: socket.socket, me: dict[str, Any], address: str, until: float
) -> list[str]:
  """Says who this is; returns the hosts of all when all have come."""
  try:
    _send(hub, me)
    hub.settimeout(max(until - time.monotonic(), 0) + 10)
    answer = _read_line(hub)
  except (OSError, ValueError) as error:
    raise Lost(
      f'process {me["process"]} of {me["count"]} on {me["host"]} got no answer '
      f'that it understands from {address} ({error}): see that process 0 of '
      'the same job still runs, and that nothing else listens there.'
    ) from error
  if 'hosts' not in answer:
    raise Lost(answer.get('error', 'process 0 ended before all had come.'))
  hub.settimeout(None)
  return answer['hosts']


def _receive(
  address: str,
  count: int,
  until: float,
  seconds: float,
  me: dict[str, Any],
) -> tuple[dict[int, socket.socket], list[str]]:
  """Waits, as process 0, until all others have said who they are."""
  port = int(address.rpartition(':')[2])
  sockets: dict[int, socket.socket] = {}
  hosts = {0: me['host']}
  try:
    listener = _listen(port, count)
  except OSError as error:
    raise Lost(
      f'process 0 on {me["host"]} cannot listen at port {port} '
      f'({error.strerror}): another job may use it; choose another port.'
    ) from error
  with listener:
    while len(_present(sockets, hosts)) < count:
      problem = ''
      ready, _, _ = select.select([listener], [], [], _TURN)
      if ready:
        connection, _ = listener.accept()
        problem = _admit(connection, count, sockets, hosts)
      elif time.monotonic() > until:
        missing = [i for i in range(count) if i not in hosts]
        problem = (
          f'waited {seconds:.0f} s at {address} for {_processes(missing)} of '
          f'{count}; {_listed(hosts)} came. Start the missing, or give the '
          'number of processes that there are.'
        )
      if problem:
        for connection in sockets.values():
          with connection, contextlib.suppress(OSError):
            _send(connection, {'error': problem})
        raise Lost(problem)
  names = [hosts[i] for i in range(count)]
  for connection in sockets.values():
    # One that ends now is noticed by `Connections`.
    with contextlib.suppress(OSError):
      _send(connection, {'hosts': names})
    connection.settimeout(None)
  return sockets, names


def _listen(port: int, count: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(
      ('', port),
      family=socket.AF_INET6,
      backlog=count,
      dualstack_ipv6=True,
    )
  return socket.create_server(('', port), backlog=count)


def _admit(
  connection: socket.socket,
  count: int,
  sockets: dict[int, socket.socket],
  hosts: dict[int, str],
) -> str:
  """Takes a process in; returns what is wrong with it, if anything."""
  connection.settimeout(5)
  try:
    hello = _read_line(connection)
    process, host = int(hello['process']), str(hello['host'])
  except (OSError, ValueError, KeyError, TypeError):
    connection.close()  # A stranger, such as a scanner of ports.
    return ''
  problem = ''
  if hello.get('count') != count:
    problem = (
      f'process 0 on {hosts[0]} was started as one of {count}, process '
      f'{process} on {host} as one of {hello.get("count")}: give all the same '
      'number.'
    )
  elif process in _present(sockets, hosts) or not 0 < process < count:
    other = f', as on {hosts[process]}' if process in hosts else ''
    problem = (
      f'{host} was started as process {process} of {count}{other}: give each '
      f'process its own number, 0 to {count - 1}.'
    )
  if problem:
    with connection, contextlib.suppress(OSError):
      _send(connection, {'error': problem})
  else:
    sockets[process], hosts[process] = connection, host
  return problem


def _present(
  sockets: dict[int, socket.socket], hosts: dict[int, str]
) -> dict[int, str]:
  """Forgets those who went while they waited; returns the other hosts."""
  for process, connection in list(sockets.items()):
    # Who waits has nothing to say: this is the end of the connection.
    if select.select([connection], [], [], 0)[0]:
      connection.close()
      del sockets[process], hosts[process]
  return hosts


def _send(connection: socket.socket, message: Any) -> None:
  connection.sendall(json.dumps(message).encode() + b'\n')


def _read_line(connection: socket.socket) -> dict[str, Any]:
  """Reads one message; {} where the other side closed."""
  data = b''
  while not data.endswith(b'\n') and len(data) < 2**20:
    # What follows the line belongs to the thread that will listen.
    part = connection.recv(1)
    if not part:
      return {}
    data += part
  found = json.loads(data)
  if not isinstance(found, dict):
    raise ValueError('no message')
  return found


def _processes(numbers: Sequence[int]) -> str:
  listed = ', '.join(map(str, numbers[:16]))
  more = ', ...' if len(numbers) > 16 else ''
  return f'process{"es" if len(numbers) > 1 else ""} {listed}{more}'


def _listed(hosts: dict[int, str]) -> str:
  named = [f'{i} on {hosts[i]}' for i in sorted(hosts)[:16]]
  return ', '.join(named) + (', ...' if len(hosts) > 16 else '')


class Connections:
  """What a process knows of the others; a thread of its own listens.

  Attributes:
    process: the number of this process.
    hosts: names of the hosts, by process.
    status: where this process is, in words, for its line.
  """

  def __init__(
    self,
    process: int,
    hosts: list[str],
    sockets: dict[int, socket.socket],
    times: Times,
  ):
    """Takes over what `meet` connected."""
    self.process, self.hosts, self.times = process, hosts, times
    self._sockets = sockets
    self._buffers = dict.fromkeys(sockets, b'')
    now = time.monotonic()
    self._heard = dict.fromkeys(sockets, now)
    self._left: dict[int, float] = {}
    self._told, self._lined = now, now
    self._status, self._since = 'starting', now
    self._limits: list[tuple[str, float]] = []
    self._round = 0
    self._values: dict[int, dict[int, Any]] = {}
    self._gathered: dict[int, list[Any]] = {}
    self._news = threading.Condition()
    self._sending = threading.Lock()
    self._lost = ''
    self._ended: tuple[float, str] | None = None
    self._ending = threading.Lock()
    threading.Thread(target=self._listen, daemon=True, name='hosts').start()

  @property
  def name(self) -> str:
    """Names this process and its host."""
    return self._name(self.process)

  def _name(self, process: int) -> str:
    count = len(self.hosts)
    return f'process {process} of {count} on {self.hosts[process]}'

  def at(self, status: str) -> None:
    """Says where this process is."""
    self._status, self._since = status, time.monotonic()

  @contextlib.contextmanager
  def limit(self, what: str) -> Iterator[None]:
    """Ends the process where what happens inside takes longer than the wait."""
    self._limits.append((what, time.monotonic() + self.times.wait))
    try:
      yield
    finally:
      self._limits.pop()

  def gather(self, value: Any, what: str) -> list[Any]:
    """Returns the JSON values of all processes, by process.

    Raises:
      Lost: some did not come in time; names them.
    """
    self._round += 1
    turn = self._round
    if self.process:
      self._tell(0, {'value': value, 'round': turn})
    else:
      self._store(turn, 0, value)
    until = time.monotonic() + self.times.wait
    with self._news:
      while turn not in self._gathered:
        # What the others need to say why comes from process 0, a little later.
        late = _OWN_WORDS if self.process else 0
        if time.monotonic() > until + late:
          raise Lost(self._late(turn, what))
        self._news.wait(_TURN)
      found = self._gathered.pop(turn)
    if isinstance(found, str):
      raise Lost(found)
    return found

  def _late(self, turn: int, what: str) -> str:
    if self.process:
      return f'{self.name} waited in vain for {self._name(0)} in {what}.'
    there = self._values.get(turn, {})
    missing = [i for i in range(len(self.hosts)) if i not in there]
    names = '; '.join(self._name(i) for i in missing[:16])
    text = (
      f'waited {self.times.wait:.0f} s in {what} for {names}: see what it does '
      'in its messages, or wait longer with DIM_JAX_HOST_SECONDS.'
    )
    self._broadcast({'gathered': text, 'round': turn})
    return text

  def end(self, line: str, *, code: int = 1, unsure: bool = False) -> NoReturn:
    """Ends this process with one line, and tells the others.

    JAX's own shutdown would wait for processes that cannot come.

    Args:
      line: what to print.
      code: the exit status.
      unsure: whether another process's end may be the cause, which is then
        waited for and printed instead.
    """
    if unsure:
      until = time.monotonic() + _OWN_WORDS
      while not (self._lost or self._ended) and time.monotonic() < until:
        time.sleep(0.05)
      line = self._cause() or line
    with self._ending:
      sys.stdout.flush()
      sys.stderr.flush()
      # From here on JAX's threads may find the service gone, and say so at
      # length.
      stderr = os.dup(2)
      os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
      os.write(stderr, f'{line}\n'.encode())
      # First those who are on this process's service.
      for process in self._sockets:
        with contextlib.suppress(OSError):
          self._tell(process, {'ended': line})
      self._wait_for_the_others()
      os._exit(code)

  def leave(self) -> None:
    """Says that this process ends as it should."""
    for process in self._sockets:
      with contextlib.suppress(OSError):
        self._tell(process, {'left': True})

  def wait_for_end(self) -> None:
    """Waits until process 0 has left."""
    while 0 not in self._left:
      time.sleep(_TURN)

  def _wait_for_the_others(self) -> None:
    """Gives messages time to arrive, and process 0's service to others."""
    until = time.monotonic() + (0.5 if self.process else 2 * _OWN_WORDS)
    open_ = {c for c in self._sockets.values() if c.fileno() >= 0}
    for connection in open_:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    while open_ and (left := until - time.monotonic()) > 0:
      try:
        ready, _, _ = select.select(list(open_), [], [], left)
        for connection in ready:
          if not connection.recv(_BYTES):
            open_.discard(connection)
      except OSError:
        return

  def _tell(self, process: int, message: Any) -> None:
    with self._sending:
      _send(self._sockets[process], message)

  def _broadcast(self, message: Any) -> None:
    for process in self._sockets:
      with contextlib.suppress(OSError):
        self._tell(process, message)

  def _listen(self) -> None:
    """Reads what the others say, and watches the clock."""
    while not self._lost:
      by_number = {c.fileno(): p for p, c in self._sockets.items()}
      open_ = [c for p, c in self._sockets.items() if p not in self._left]
      ready, _, _ = select.select(open_, [], [], _TURN)
      for connection in ready:
        process = by_number[connection.fileno()]
        try:
          data = connection.recv(_BYTES)
        except OSError:
          data = b''
        if not data:
          if not self._ended and process not in self._left:
            self._give_up(process, 'is gone (killed, or its host or network)')
          self._left.setdefault(process, time.monotonic())
          continue
        self._heard[process] = time.monotonic()
        *lines, rest = (self._buffers[process] + data).split(b'\n')
        self._buffers[process] = rest
        for row in lines:
          self._understand(process, json.loads(row))
      self._watch(time.monotonic())

  def _understand(self, process: int, message: dict[str, Any]) -> None:
    if 'left' in message:
      self._left[process] = time.monotonic()
    elif 'lost' in message:
      self._lost = message['lost']
      self.end(self._cause())
    elif 'ended' in message and not self._ended:
      reason = message['ended'].removeprefix('Error: ')
      text = f'{self._name(process)} ended: {reason}'
      if not self.process:
        for other in self._sockets:
          if other != process:
            with contextlib.suppress(OSError):
              self._tell(other, {'cause': text})
      # This process may be about to say the same in its own words.
      self._ended = (time.monotonic() + _OWN_WORDS, text)
    elif 'cause' in message and not self._ended:
      self._ended = (time.monotonic() + _OWN_WORDS, message['cause'])
    elif 'value' in message:
      self._store(message['round'], process, message['value'])
    elif 'gathered' in message:
      with self._news:
        self._gathered[message['round']] = message['gathered']
        self._news.notify_all()

  def _store(self, turn: int, process: int, value: Any) -> None:
    """Keeps a value, at process 0; passes all on when they are there."""
    with self._news:
      values = self._values.setdefault(turn, {})
      values[process] = value
      if len(values) < len(self.hosts):
        return
      found = [values[i] for i in range(len(self.hosts))]
      del self._values[turn]
    self._broadcast({'gathered': found, 'round': turn})
    with self._news:
      self._gathered[turn] = found
      self._news.notify_all()

  def _watch(self, now: float) -> None:
    """Looks whether something is due, late or over."""
    if self._ended and now > self._ended[0]:
      self.end(self._cause())
    if now - self._told > self.times.beat:
      self._told = now
      self._broadcast({'beat': True})
    for process, heard in self._heard.items():
      if process not in self._left and now - heard > self.times.silent:
        self._give_up(process, f'has not answered for {now - heard:.0f} s')
    for process, since in self._left.items():
      if now - since > self.times.wait:
        self._give_up(process, f'ended {now - since:.0f} s ago')
    for what, until in list(self._limits):
      if now > until:
        self.end(
          f'Error: {self.name}: {what} has not ended in {self.times.wait:.0f} '
          's: see whether the folder can be written to and the other processes '
          'move, or wait longer with DIM_JAX_HOST_SECONDS. '
          'The same command continues from the newest checkpoint.'
        )
    if now - self._lined > self.times.line:
      self._lined = now
      sys.stderr.write(
        f'{self.name}: {self._status}, for {now - self._since:.0f} s\n'
      )
      sys.stderr.flush()

  def _give_up(self, process: int, how: str) -> None:
    self._lost = f'{self._name(process)} {how}'
    self._broadcast({'lost': self._lost})
    self.end(self._cause())

  def _cause(self) -> str:
    """What another process's end makes this one say; '' if none ended."""
    if self._lost:
      return (
        f'Error: {self._lost}: {self.name} ends too; the same command '
        'continues from the newest checkpoint.'
      )
    return f'Error: {self._ended[1]}' if self._ended else ''
