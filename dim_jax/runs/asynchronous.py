"""Trains isolated modules at paces of their own, on features that wait.

Where no gradient passes between modules, one needs of the other but features,
and these may be old. So each module has a buffer of the newest batches that the
one below passed on, and takes its steps from there; nobody waits. A module that
has taken all its steps goes on passing features, as long as one above learns.

Three ways of keeping time:

- by a schedule, `pace=(2, 1, 1)`: in each round every module takes so many
  steps, the last one first. What is read when depends on nothing else, so that
  a run that was killed ends bitwise identical to one that was not. Where all
  paces are equal, each module sees what joint training would show it.
- without one, a thread for each module, on a device of its own where there are
  as many; or
- a process for each module, on one machine or on several that share folders.

WORKDIR/module_M has the metrics and checkpoints of a module. When all are
done WORKDIR is a run as any other, with the whole encoder.

The metrics of a module M > 0 besides its own: 'module_M/staleness', how many
batches newer than the one of the step the module below had passed on, and
'module_M/repeated', the fraction of steps whose batch was read before. Both
are means over an interval.

Belilovsky et al., Decoupled Greedy Learning of CNNs, ICML 2020, section 3.2.
https://arxiv.org/abs/1901.08164
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, files
from dim_jax import config as config_lib
from dim_jax.data import batches
from dim_jax.objective import Stage
from dim_jax.runs import train as train_lib
from dim_jax.training import (
  checkpoint,
  lock,
  loop,
  metrics,
  parallel,
  pipeline,
  replay_buffer,
)
from dim_jax.training import step as step_lib
from dim_jax.training.preemption import Preemption

_DONE, _INTERVALS, _SCHEDULE = 'done.json', 'intervals.json', 'schedule.json'
_PAUSE = 0.01  # seconds between two looks at a folder


class Settings(NamedTuple):
  """How modules keep time.

  Attributes:
    pace: steps of each module in a round; None for no schedule.
    module: train this one alone, in this process, beside others; None for all.
    size: batches that a buffer holds.
    buffer_dir: folder of the buffers; WORKDIR/buffers if None.
    timeout: seconds that a module waits for the first batch of the one below.
    devices: use only this many devices; all of them if None.
    show_progress: show lines.
  """

  pace: tuple[int, ...] | None = None
  module: int | None = None
  size: int = 8
  buffer_dir: str | None = None
  timeout: float = 600.0
  devices: int | None = None
  show_progress: bool = True


def train_asynchronously(
  config: config_lib.ExperimentConfig, workdir: str, settings: Settings
) -> str:
  """Trains all modules of a run, or one of them, each at its own pace.

  The same call continues a run that was killed. SIGTERM saves, and raises
  SystemExit(143).

  Args:
    config: the run of all modules at once; each module takes its `steps`.
    workdir: the run's folder.
    settings: how modules keep time.

  Returns:
    The folder, which holds the whole encoder as soon as all modules are done.

  Raises:
    ValueError: the objective has no isolated modules, a setting cannot be used,
      or a folder holds another run.
    TimeoutError: the module below passes nothing on.
    FloatingPointError: a metric is not finite.
  """
  workdir = os.path.expanduser(workdir)
  config_lib.check(config)
  _check(config, settings)
  _check_folder(config, workdir, settings)
  run = train_lib.prepare(config, show_progress=settings.show_progress)
  count = len(run.objective.stages)
  _check_modules(settings, count)
  if _is_finished(workdir, count, config.steps):
    return workdir
  mine = range(count) if settings.module is None else [settings.module]
  devices = list(parallel.make_mesh(settings.devices).devices.flat)
  with train_lib.claim(workdir), contextlib.ExitStack() as stack:
    train_lib.describe(config, run, workdir)
    files.write_json(os.path.join(workdir, _SCHEDULE), _schedule(settings))
    state = _initial(config, run)
    parts = pipeline.split(run.objective.stages, run.optimizer, state, devices)
    # Of the whole and of the parts: a step takes the arrays themselves.
    shapes = _shapes(state), [_shapes(part) for part in parts]
    modules = [
      stack.enter_context(
        _Module(config, run, parts[number], workdir, settings, number)
      )
      for number in mine
    ]
    preemption = stack.enter_context(Preemption())
    if settings.pace:
      _by_schedule(modules, settings.pace, preemption)
    elif settings.module is None:
      _by_threads(modules, preemption)
    else:
      modules[0].run(lambda: preemption.asked)
    if preemption.asked:
      raise SystemExit(143)
    # The first module is done last: the others read what it passes on.
    if 0 in mine:
      _finish(config, run.objective.stages, *shapes, workdir)
      modules[0].say(f'all modules are done: {workdir}')
  return workdir


def _schedule(settings: Settings) -> dict[str, Any]:
  """What decides who reads what when; nothing does without a pace."""
  if settings.pace is None:
    return {'pace': None}
  return {'pace': list(settings.pace), 'buffer': settings.size}


def _check_folder(
  config: config_lib.ExperimentConfig, workdir: str, settings: Settings
) -> None:
  """Raises ValueError where `workdir` holds anything but a part of this run."""
  schedule = files.read_json(os.path.join(workdir, _SCHEDULE))
  if not train_lib.has_checkpoint(workdir, '*/'):
    if train_lib.has_checkpoint(workdir):
      raise ValueError(
        f'{workdir!r} holds a run whose modules were trained together: choose '
        'another --workdir.'
      )
    return
  if not schedule:
    raise ValueError(
      f'{workdir!r} holds modules that were trained otherwise: choose another '
      '--workdir.'
    )
  train_lib.check_same(config, config_lib.load(workdir)[0], workdir)
  for name, new in _schedule(settings).items():
    if (old := schedule.get(name)) != new:
      raise ValueError(
        f'{workdir!r} holds modules with {name} = {old}, these have {new}: '
        'give the same, or choose another --workdir.'
      )


def _check(config: config_lib.ExperimentConfig, settings: Settings) -> None:
  """Raises ValueError where a setting, or the config beside it, has no use."""
  checks.check_range('--buffer', settings.size, 'int [1, inf)')
  checks.check_range('--timeout', settings.timeout, '(0, inf)')
  for name, wanted in {
    'parallel': 'jit',
    'accumulate': 1,
    'information': None,
    'tensorboard': False,
  }.items():
    if (given := getattr(config, name)) != wanted:
      raise ValueError(
        f'modules that keep their own time need {name}={wanted!r}, got '
        f'{given!r}.'
      )
  if settings.pace and settings.module is not None:
    raise ValueError(
      '--pace is a schedule of all modules in one process, --module one of '
      'several processes without any: leave out one of them.'
    )
  if jax.process_count() > 1:
    raise ValueError(
      f'there are {jax.process_count()} JAX processes; modules in processes of '
      'their own need no coordinator: start each with --module alone.'
    )


def _check_modules(settings: Settings, count: int) -> None:
  """Raises ValueError where settings do not fit the number of modules."""
  if count < 2:
    what = 'one isolated module' if count else 'no isolated modules'
    raise ValueError(
      f'The objective has {what}; paces are of several, such as those of '
      'Greedy InfoMax: train this one with dim-jax train.'
    )
  pace = settings.pace
  if pace and (len(pace) != count or min(pace) < 1):
    raise ValueError(
      f'--pace must be {count} whole numbers from 1, one for each module, got '
      f'{pace}.'
    )
  if settings.module is not None and not 0 <= settings.module < count:
    raise ValueError(
      f'--module must be in 0..{count - 1}, got {settings.module}.'
    )


class _Module:
  """One module at work; a context manager.

  Attributes:
    number: of the module.
    step: steps taken.
    steps: to take.
    checkpoint_every: this many rounds.
    buffers: the folder of all buffers.
    state: parameters, optimizer and statistics of this module alone.
  """

  def __init__(
    self,
    config: config_lib.ExperimentConfig,
    run: train_lib.Prepared,
    state: step_lib.TrainState,
    workdir: str,
    settings: Settings,
    number: int,
  ):
    """Opens the module's folder and the buffers on both of its sides.

    Args:
      config: the run of all modules.
      run: what that trains.
      state: this module's part before the first step, on its device.
      workdir: the run's folder.
      settings: how modules keep time.
      number: of the module.
    """
    self.number, self.steps, self.step = number, config.steps, 0
    self.checkpoint_every, self.state = config.checkpoint_every, state
    self._config, self._run, self._settings = config, run, settings
    # With one, a kill between the saves of two modules would leave no round
    # that both can go on from.
    self._keep = max(config.keep, 2)
    self._count = len(run.objective.stages)
    self._folders = [
      os.path.join(workdir, f'module_{i}') for i in range(self._count)
    ]
    self._folder = self._folders[number]
    files.make_folder(self._folder)
    self.buffers = settings.buffer_dir or os.path.join(workdir, 'buffers')
    origin = _origin(config)

    def open_buffer(reader: int) -> replay_buffer.ReplayBuffer | None:
      if not 0 < reader < self._count:
        return None
      folder = os.path.join(
        os.path.expanduser(self.buffers), f'module_{reader}'
      )
      return replay_buffer.ReplayBuffer(folder, settings.size, origin)

    self._reader, self._writer = open_buffer(number), open_buffer(number + 1)
    self._source = train_lib.as_stream(run.train_set)
    # Batches passed on, and the newest that was read.
    self._written, self._last = 0, -1
    self._values: list[Any] = []
    self._read: list[tuple[int, bool]] = []
    (self._device,) = state.step.devices()
    self._make_steps()

  def _make_steps(self) -> None:
    objective, optimizer = self._run.objective, self._run.optimizer
    draw = functools.partial(loop.draw_batch, None, None, self._run.augment)
    step = pipeline.stage_step(
      objective, optimizer, self.number, None if self.number else draw
    )
    self._take_step = jax.jit(step, donate_argnums=0)

    # The optimizer's part of it is never computed.
    @jax.jit
    def forward(state: step_lib.TrainState, entered: Any) -> Any:
      return step(state, entered)[2]

    self._forward = forward

  def __enter__(self) -> '_Module':
    self._stack = contextlib.ExitStack()
    enter = self._stack.enter_context
    enter(lock.hold(self._folder))
    self._checkpoints = enter(
      checkpoint.Checkpoints(self._folder, self._keep, owner=True)
    )
    settings = loop.Settings.of(
      self._config, show_progress=self._settings.show_progress
    )
    self._log = enter(metrics.Log(self._folder, settings, settings.batch_size))
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  @property
  def done(self) -> bool:
    """Whether all steps are taken."""
    return self.step >= self.steps

  def say(self, text: str) -> None:
    """Shows one plain line."""
    self._log.say(text)

  @property
  def saves(self) -> int:
    """How many checkpoints there are."""
    return len(self._checkpoints.steps)

  def recover(self) -> list[int]:
    """Lists the checkpoints to go on from; damaged ones are moved aside."""
    self._checkpoints.recover(self.say)
    steps = self._checkpoints.steps
    if self._reader and self._settings.pace:
      # A kill between the two leaves a checkpoint without its batches.
      saved = self._reader.labels()
      steps = [step for step in steps if step in saved]
    return steps

  def restore(self, label: int) -> None:
    """Goes back to a checkpoint; 0 is the start."""
    if label:
      saved = self._checkpoints.restore(self._contents(), label)
      self.state = _of_leaves(self.state, saved['state'])
      position = jax.device_get(saved['position']).tolist()
      self.step, self._written, self._last = position
      intervals = files.read_json(self._path(_INTERVALS))
      self._values, self._read = intervals.get(str(label)) or ([], [])
      self.say(f'continuing {self._folder} at step {self.step} of {self.steps}')
    if self._reader and self._settings.pace:
      self._reader.restore(label)
    if self._writer and not self._settings.pace:
      # After those that it wrote between its last checkpoint and its end.
      there = self._writer.numbers()
      self._written = max([self._written, *(x + 1 for x in there)])
    self._log.start(self.step)

  def save(self, label: int) -> None:
    """Saves the module, and by a schedule the batches that wait for it."""
    if not label:
      return
    if label not in self._checkpoints.steps:
      self._checkpoints.save(label, self._contents())
    # An interval that is not over yet, which its line will be a mean of.
    intervals = files.read_json(self._path(_INTERVALS))
    kept = {str(x): intervals.get(str(x)) for x in self._checkpoints.steps}
    kept[str(label)] = [_floats(self._values), self._read]
    files.write_json(self._path(_INTERVALS), kept)
    if self._reader and self._settings.pace:
      self._reader.save(label, self._keep)
    if self.done and not _is_done(self._folder, self.steps):
      files.write_json(self._path(_DONE), self.steps)

  def _contents(self) -> dict[str, Any]:
    position = jnp.asarray([self.step, self._written, self._last], jnp.int32)
    return {'state': _leaves(self.state), 'position': position}

  def _path(self, name: str) -> str:
    return os.path.join(self._folder, name)

  def is_needed(self) -> bool:
    """Whether it learns, or one above it does."""
    above = self._folders[self.number + 1 :]
    return not self.done or not all(_is_done(x, self.steps) for x in above)

  @property
  def _tick(self) -> int:
    """What draws are of: its step, or, beyond the last, the batch's number."""
    return max(self.step, self._written) if self.done else self.step

  def advance(self) -> bool:
    """Takes a step, or, if all are taken, passes a batch on.

    Returns:
      Whether there was a batch to do so with.
    """
    entered = self._enter()
    if entered is None:
      return False
    if self.done:
      state = self.state._replace(step=jnp.asarray(self._tick, jnp.int32))
      passed_on = self._forward(state, entered)
    else:
      self.state, values, passed_on = self._take_step(self.state, entered)
      self._values.append(values)
      self.step += 1
    if self._writer:
      features, labels = jax.device_get(passed_on)
      self._writer.write(self._written, features, labels)
    self._written += 1
    if self._values and (self.done or self.step % self._config.log_every == 0):
      self._write_metrics()
    return True

  def _enter(self) -> Any:
    """What the module gets now, on its device; None if there is nothing."""
    if self._reader is None:
      (rows,) = batches.batch_indices(
        self._config.seed,
        self._tick,
        1,
        batch_size=self._config.batch_size,
        num_examples=self._source.num_examples,
      )
      examples = {k: x[None] for k, x in self._source.read(rows).items()}
      first = np.asarray(self._tick, np.int32)
      return jax.device_put(({}, examples, first), self._device)
    numbers = self._reader.numbers()
    if not numbers:
      return None
    number = replay_buffer.choose(
      numbers, self._last, self._config.seed, self.number, self._tick
    )
    batch = self._reader.read(number)
    if batch is None:  # The writer is ahead by the whole buffer.
      return self._enter()
    if not self.done:
      self._read.append((numbers[-1] - number, number <= self._last))
    if number > self._last:
      self._last = number
      self._reader.mark_read(number)
    return jax.device_put((batch.features, batch.labels), self._device)

  def _write_metrics(self) -> None:
    rows = _floats(self._values)
    # 'loss' is the name of the sum of all modules'.
    names = [name for name in rows[0] if name != 'loss']
    values = {name: float(np.mean([x[name] for x in rows])) for name in names}
    if self._read:
      staleness, repeated = np.mean(self._read, axis=0).tolist()
      values |= {
        f'module_{self.number}/staleness': staleness,
        f'module_{self.number}/repeated': repeated,
      }
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
      raise FloatingPointError(
        f'Before step {self.step}, {", ".join(bad)} became non-finite. Lower '
        'the learning rate, or clip (optimizer.clip).'
      )
    self._log.write(self.step, len(self._values), values)
    self._values, self._read = [], []

  def run(self, stopped: Callable[[], bool]) -> None:
    """Works until all modules are done, or until `stopped`; then saves."""
    self.restore(max(self.recover(), default=0))
    waits_since = time.monotonic()
    while not stopped() and self.is_needed():
      ahead = self._writer and self._writer.last_read() < self._written - 1
      if (self.done and ahead) or not self.advance():
        if time.monotonic() - waits_since > self._settings.timeout:
          self._give_up()
        time.sleep(_PAUSE)
        continue
      waits_since = time.monotonic()
      if self.done or self.step % self.checkpoint_every == 0:
        self.save(self.step)
    self.save(self.step)

  def _give_up(self) -> None:
    other = self.number + (1 if self.done else -1)
    what = 'read' if self.done else 'passed on'
    advice = 'raise --timeout'
    if self._settings.module is not None:
      advice = f'start it with --module={other} and the same --workdir, or '
      advice += 'raise --timeout'
    raise TimeoutError(
      f'module_{other} has {what} nothing for {self._settings.timeout:g} s: '
      f'{advice}. The same command goes on from here.'
    )


def _floats(values: Sequence[Any]) -> list[dict[str, float]]:
  return [
    {name: float(x) for name, x in row.items()}
    for row in jax.device_get(values)
  ]


def _is_done(folder: str, steps: int) -> bool:
  """Whether the module of a folder has taken all steps, and saved."""
  return files.read_json(os.path.join(folder, _DONE)) == steps


def _is_finished(workdir: str, count: int, steps: int) -> bool:
  """Whether all modules are done, and the run of all is written."""
  folders = (os.path.join(workdir, f'module_{i}') for i in range(count))
  whole = files.at(workdir) / 'checkpoints' / str(steps)
  return whole.is_dir() and all(_is_done(x, steps) for x in folders)


def _initial(
  config: config_lib.ExperimentConfig, run: train_lib.Prepared
) -> step_lib.TrainState:
  make = functools.partial(step_lib.init_state, run.objective, run.optimizer)
  state = jax.jit(make)(run.example, jax.random.key(config.seed))
  return run.start(state) if run.start else state


def _leaves(tree: Any) -> dict[str, Any]:
  """Lists the leaves of a tree by name."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _of_leaves(tree: Any, values: dict[str, Any]) -> Any:
  """Inverts `_leaves`: a tree of the same structure, with other values."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: values[
      jax.tree_util.keystr(path, simple=True, separator='.')
    ],
    tree,
  )


def _shapes(tree: Any) -> Any:
  """Shapes of arrays, each on the first device."""
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def of(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(of, tree)


def _origin(config: config_lib.ExperimentConfig) -> str:
  """Hashes what decides which features a run passes on."""
  names = ('objective', 'data', 'optimizer', 'groups', 'batch_size', 'seed')
  text = json.dumps([config_lib.to_json(getattr(config, x)) for x in names])
  return hashlib.sha256(text.encode()).hexdigest()


def _by_schedule(
  modules: Sequence[_Module],
  pace: Sequence[int],
  preemption: Preemption,
) -> None:
  """Takes rounds of steps until all modules are done.

  Raises:
    ValueError: there are checkpoints, but not the batches that waited.
  """
  # A kill between two saves leaves some modules a checkpoint ahead.
  labels = set.intersection(*(set(module.recover()) for module in modules))
  first = max(labels, default=0)
  # Of two rounds that were saved one has its batches, where they were put.
  if not first and all(module.saves > 1 for module in modules):
    raise ValueError(
      'the modules have checkpoints, but the batches that waited for them are '
      f'not in {modules[0].buffers!r}: give the --buffer_dir of the earlier '
      'session, or choose another --workdir.'
    )
  for module in modules:
    module.restore(first)
  if all(module.done for module in modules):
    return
  every = modules[0].checkpoint_every
  for number in itertools.count(first + 1):
    for module in reversed(modules):
      for _ in range(pace[module.number]):
        if any(not x.done for x in modules[module.number :]):
          module.advance()
    last = all(module.done for module in modules)
    if last or preemption.asked or number % every == 0:
      for module in modules:
        module.save(number)
    if last or preemption.asked:
      return


def _by_threads(modules: Sequence[_Module], preemption: Preemption) -> None:
  """Runs each module in a thread; the first error stops all of them."""
  stop = threading.Event()

  def work(module: _Module) -> None:
    try:
      module.run(stop.is_set)
    except BaseException:
      stop.set()
      raise

  with concurrent.futures.ThreadPoolExecutor(len(modules)) as pool:
    futures = [pool.submit(work, module) for module in modules]
    try:
      while not all(future.done() for future in futures):
        concurrent.futures.wait(futures, timeout=0.2)
        if preemption.asked:
          stop.set()
    finally:
      # The pool waits for its threads, after Ctrl-C too.
      stop.set()
    for future in futures:
      future.result()


def _finish(
  config: config_lib.ExperimentConfig,
  stages: Sequence[Stage],
  whole: step_lib.TrainState,
  parts: Sequence[step_lib.TrainState],
  workdir: str,
) -> None:
  """Writes the checkpoint and the metrics of all modules together.

  Args:
    config: the run.
    stages: of its objective.
    whole: shapes of the state.
    parts: shapes of those of the modules.
    workdir: the run's folder.
  """
  states = []
  for number, part in enumerate(parts):
    folder = os.path.join(workdir, f'module_{number}')
    contents = {
      'state': _leaves(part),
      'position': jnp.zeros(3, jnp.int32),
    }
    with checkpoint.Checkpoints(folder, config.keep) as checkpoints:
      saved = checkpoints.restore(contents)
    states.append(_of_leaves(part, saved['state']))
  state = pipeline.merge(stages, states, whole)
  with lock.hold(workdir):
    with checkpoint.Checkpoints(workdir, config.keep, owner=True) as merged:
      if config.steps not in merged.steps:
        merged.save(config.steps, state)
    lines = list(_merged_metrics(workdir, len(stages)))
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    files.write(os.path.join(workdir, 'metrics.jsonl'), text)


def _merged_metrics(workdir: str, count: int) -> Iterator[dict[str, Any]]:
  """The lines of all modules, by their own steps; seconds of the last."""
  by_step: dict[int, list[dict[str, Any]]] = {}
  for number in range(count):
    path = os.path.join(workdir, f'module_{number}', 'metrics.jsonl')
    for line in metrics.read(path):
      by_step.setdefault(line['step'], []).append(line)
  for step in sorted(by_step):
    lines = by_step[step]
    merged = {name: x for line in lines for name, x in line.items()}
    merged['seconds'] = max(line['seconds'] for line in lines)
    merged['images_per_s'] = min(line['images_per_s'] for line in lines)
    yield merged
