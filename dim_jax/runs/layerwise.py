"""Trains the modules of an encoder one after another."""

import dataclasses
import hashlib
import json
import os
import re
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

import dim_jax
from dim_jax import checks, files, progress, random
from dim_jax import config as config_lib
from dim_jax.data import augment, batches, cache
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.evaluation import features as features_lib
from dim_jax.runs import train
from dim_jax.training import lock

_ROWS = 64  # examples that go through the modules at once
_VIEW_STREAM = random.OfSeed.STORED_VIEWS


def train_modules(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  depth: int | None = None,
  store: bool = False,
  views: int = 1,
  half: bool = False,
  budget: int = 8 * 2**30,
  devices: int | None = None,
  show_progress: bool = True,
) -> str:
  """Trains one module after another.

  Args:
    config: the run of all modules at once.
    workdir: folder of the runs.
    depth: how many modules; as many as the objective trains if None.
    store: train on stored features rather than run the frozen modules again.
    views: stored augmentations of each example.
    half: store float16 rather than float32.
    budget: bytes that a file of features must not pass.
    devices: train on only this many devices; all of them if None.
    show_progress: show bars, or lines.

  Returns:
    The folder of the last run, which holds the whole encoder.

  Raises:
    ValueError: the objective has no isolated modules, the config has
      an `init_from` of its own, `workdir` holds modules of other steps or one
      that was begun with other stored features, these would pass the budget,
      or they cannot be stored: of a stream, in a remote folder, or by several
      processes. Nothing was trained.
  """
  workdir = os.path.expanduser(workdir)
  modules = _modules(config, depth)
  checks.check_range('--views', views, 'int [1, inf)')
  if store:
    _check_store(config, workdir)
  elif views != 1 or half:
    raise ValueError('--views and --half need --store: give it, or neither.')
  dtype = np.dtype(np.float16 if half else np.float32)
  storage = Storage(workdir, views, dtype, budget, show_progress)
  with train.claim(workdir), lock.hold(workdir):
    _check_steps(workdir, config.steps)
    folders = [
      os.path.join(workdir, f'module_{i}') for i in range(len(modules))
    ]
    last = f'checkpoints/{config.steps}'
    pending = [
      i
      for i, path in enumerate(folders)
      if i and not (files.at(path) / last).is_dir()
    ]
    _check_source(folders, pending, storage.form if store else {})
    if store and pending:
      storage.check(config, modules, pending)
    before = ''
    for i, objective in enumerate(modules):
      run_dir = folders[i]
      part = dataclasses.replace(
        config, objective=objective, init_from=_module_below(run_dir, before)
      )
      stored = storage.write(before, i) if store and i in pending else None
      if show_progress:
        line = f'module_{i} of {len(modules)} in {run_dir}'
        print(line, file=sys.stderr, flush=True)
      train.train(
        part,
        run_dir,
        stored=stored,
        devices=devices,
        show_progress=show_progress,
      )
      before = run_dir
    if store:
      _remove_features(workdir)
  return before


def _remove_features(workdir: str) -> None:
  for name in os.listdir(workdir):
    if re.match(r'features_\d+\.npy', name):
      os.remove(os.path.join(workdir, name))


def _modules(
  config: config_lib.ExperimentConfig, depth: int | None
) -> tuple[Any, ...]:
  """Returns the objective config of each module, or raises ValueError."""
  module_configs = config_lib.make_objective(config).module_configs
  if module_configs is None:
    raise ValueError(
      'Only an encoder of isolated modules, such as that of Greedy InfoMax '
      '(objectives.gim), is trained one module after another; the config has '
      f'{type(config.objective).__module__}.'
    )
  if config.init_from is not None:
    raise ValueError(
      'Each module starts from the run of the one below it: set init_from to '
      f'None, got {config.init_from!r}.'
    )
  return module_configs(depth)


def _check_store(config: config_lib.ExperimentConfig, workdir: str) -> None:
  """Raises ValueError where features cannot be stored."""
  if getattr(config.data, 'stream', False):
    raise ValueError(
      '--store reads all examples at once, which data.stream=True does not: '
      'leave out one of them.'
    )
  if files.is_remote(workdir):
    raise ValueError(
      '--store keeps features in a local folder: leave it out, or give a local '
      f'--workdir, not {workdir!r}.'
    )
  if jax.process_count() > 1:
    raise ValueError(
      '--store keeps features for one process, and there are '
      f'{jax.process_count()}: leave it out, or train on one host.'
    )


def _check_steps(workdir: str, steps: int) -> None:
  """Raises ValueError where a module was trained on modules of other steps."""
  for path in sorted(files.at(workdir).glob('module_[1-9]*')):
    run_dir = os.fspath(path)
    if not train.has_checkpoint(run_dir):
      continue
    # The modules below it had as many.
    there = config_lib.load(run_dir)[0].steps
    if there != steps:
      raise ValueError(
        f'{run_dir!r} was trained on frozen modules of {there} steps, '
        f'which steps={steps} would change under it: choose another --workdir, '
        f'or keep --config.steps={there}.'
      )


def _check_source(
  folders: list[str], pending: list[int], form: dict[str, Any]
) -> None:
  """Raises ValueError where a module would go on with other examples.

  Args:
    folders: of the modules.
    pending: those that are not at their end.
    form: what describes the stored features; empty where none are stored.
  """
  for i in pending:
    path = os.path.join(folders[i], 'features.json')
    known = train.has_checkpoint(folders[i]) and files.at(path).exists()
    if known and (there := files.read_json(path)) != form:
      raise ValueError(
        f'{folders[i]!r} was begun with {_flags(there)}, and now there is '
        f'{_flags(form)}: give the same flags again, or choose another '
        '--workdir.'
      )
    if not known and not jax.process_index():
      files.make_folder(folders[i])
      files.write_json(path, form)


def _flags(form: dict[str, Any]) -> str:
  """Writes what decides which rows a module trains on as flags."""
  if not form:
    return 'no --store'
  half = ' --half' if form['dtype'] == 'float16' else ''
  return f'--store --views={form["views"]}{half}'


def _module_below(run_dir: str, before: str) -> str | None:
  """Returns the run to start from, as the module's own run has it.

  The folder of all may have been moved since, or be given by another path.
  """
  if before and train.has_checkpoint(run_dir):
    there = config_lib.load(run_dir)[0].init_from
    if there and os.path.basename(there) == os.path.basename(before):
      return there
  return before or None


class Storage(NamedTuple):
  """What frozen modules pass on, in files of `workdir`.

  Attributes:
    workdir: their folder.
    views: of each example.
    dtype: of the files.
    budget: bytes that none must pass.
    show_progress: show bars, or lines.
  """

  workdir: str
  views: int
  dtype: np.dtype
  budget: int
  show_progress: bool = True

  @property
  def form(self) -> dict[str, Any]:
    """What decides which rows a module trains on."""
    return {'views': self.views, 'dtype': str(self.dtype)}

  def path(self, module: int) -> str:
    """Returns the file of what a module takes in."""
    return os.path.join(self.workdir, f'features_{module}.npy')

  def check(
    self,
    config: config_lib.ExperimentConfig,
    modules: tuple[Any, ...],
    pending: list[int],
  ) -> None:
    """Prints how large the files will be that `pending` modules train on.

    Raises:
      ValueError: one would pass the budget; or the config cannot be used.
    """
    last = dataclasses.replace(config, objective=modules[pending[-1]])
    config_lib.check(last)
    examples = data.training(config.data, progress=self.show_progress)
    rows = self.views * len(examples.inputs)
    change = augment.make(config.data, examples.inputs.shape[-1])

    def entered(rng, inputs, positions):
      if change is not None:
        inputs = change(rng, inputs, positions)
      batch = as_batch(inputs, config.data.kind)
      features = []
      for i in pending:
        objective: Any = config_lib.make_objective(
          dataclasses.replace(config, objective=modules[i - 1])
        )
        variables = objective.init(rng, batch)
        features.append(objective.module_outputs(variables, batch))
      return features

    found = jax.eval_shape(
      entered, jax.random.key(0), examples.inputs[:1], np.arange(1)
    )
    lines, too_large = [], []
    for module, features in zip(pending, found, strict=True):
      path, shape = self.path(module), features.shape[1:]
      size = cache.size(rows, shape, self.dtype)
      lines.append(
        f'{path}: {rows} rows of {shape} {self.dtype}, {size / 2**30:.3f} GiB'
      )
      if size > self.budget:
        too_large.append(f'{path} would take {size / 2**30:.3g} GiB')
    if self.show_progress:
      print('\n'.join(lines), file=sys.stderr, flush=True)
    if too_large:
      raise ValueError(
        f'{", ".join(too_large)}; the budget is {self.budget / 2**30:.3g} GiB. '
        'Leave --store out, store --half or fewer --views, or raise '
        '--budget_gb; or let modules pass on less (Greedy InfoMax with '
        '--config.objective.pool=2), in a new --workdir.'
      )

  def write(self, run_dir: str, module: int) -> dict[str, np.ndarray]:
    """Stores what a module takes in, for each view of an example.

    Args:
      run_dir: the run of the module below.
      module: the number of the module; a file of the one below spares running
        those under it again.

    Returns:
      'features', left on disk, and 'label'.
    """
    path, below = self.path(module), self.path(module - 1)
    encoder = dim_jax.load(run_dir)
    config = encoder.config
    examples = data.training(config.data, progress=self.show_progress)
    count = len(examples.inputs)
    labels = np.tile(examples.labels[examples.label], self.views)
    form = [
      config_lib.to_json(config.data),
      count,
      self.views,
      str(self.dtype),
      int(_VIEW_STREAM),
    ]
    if _origin(path) == (origin := _describe(encoder, form)):
      return {'features': cache.read(path), 'label': labels}
    stored = False
    if there := _origin(below):
      # The run that the one below started from, wherever both are now.
      lower = os.path.join(os.path.dirname(run_dir), f'module_{module - 2}')
      stored = there == _describe(dim_jax.load(lower), form)
    source = cache.read(below) if stored else examples.inputs
    advance = _forward(encoder, self.dtype, stored)

    def produce(first: int, last: int) -> np.ndarray:
      positions = np.arange(first, last)
      inputs = source[first:last] if stored else source[positions % count]
      # Padded, so that one compiled program serves the last rows too.
      features = advance(
        encoder.variables,
        batches.pad(np.asarray(inputs), _ROWS),
        batches.pad(positions, _ROWS),
      )
      return np.asarray(features)[: last - first]

    row = jax.eval_shape(advance, encoder.variables, source[:1], np.arange(1))
    rows = self.views * count
    with (
      progress.Progress(self.show_progress) as bar,
      bar.task(os.path.basename(path), rows) as task,
    ):
      values = cache.write(
        path,
        rows,
        row.shape[1:],
        self.dtype,
        produce,
        budget=self.budget,
        batch_size=_ROWS,
        progress=task.update,
      )
    files.write_json(f'{path}.json', {'origin': origin})
    if stored:
      os.remove(below)
    return {'features': values, 'label': labels}


def _forward(encoder: dim_jax.Encoder, dtype: np.dtype, stored: bool) -> Any:
  """Returns what an encoder passes on: of inputs or of stored features."""
  config = encoder.config
  outputs: Any = encoder.objective.module_outputs
  change = None if stored else augment.make(config.data)

  @jax.jit
  def forward(
    variables: Any, inputs: jax.Array, positions: jax.Array
  ) -> jax.Array:
    if stored:
      return outputs(variables, {'features': inputs}).astype(dtype)
    if change is not None:
      rng = random.branch(jax.random.key(config.seed), _VIEW_STREAM)
      inputs = change(rng, inputs, positions)
    return outputs(variables, as_batch(inputs, config.data.kind)).astype(dtype)

  return forward


def _describe(encoder: dim_jax.Encoder, form: list[Any]) -> str:
  """Hashes which encoder, data and views stored rows came from."""
  text = json.dumps([features_lib.fingerprint(encoder.variables), form])
  return hashlib.sha256(text.encode()).hexdigest()


def _origin(path: str) -> str | None:
  """Returns what `_describe` gave for a file; None without a file."""
  there = os.path.exists(path)
  return files.read_json(f'{path}.json').get('origin') if there else None
