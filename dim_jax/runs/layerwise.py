"""Trains the modules of Greedy InfoMax one after another.

  python -m experiments.layerwise \
      --config=experiments/configs/gim_spoken_digits.py \
      --workdir=runs/layerwise --store --half

Each module is a run of its own in WORKDIR/module_0, WORKDIR/module_1, ..., of
as many steps as the config says, with the modules below it frozen. The last
holds the whole encoder. The same command continues where it was interrupted,
and --depth leaves modules for later: they can be added to a finished run, of as
many steps.

Without --store the frozen modules run in every step, and nothing of them is
kept. With it, what they pass on is computed once and stored on disk, --views
times for each example with other augmentations, at --half precision if asked.
The sizes are printed, and refused beyond --budget_gb, before anything is
trained. Stored examples see no augmentation but that of their views.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sys
from typing import Any

import jax
import numpy as np

import dim_jax
from dim_jax import config as config_lib
from dim_jax import files, progress, random
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
    depth: how many modules; all if None.
    store: train on stored features rather than run the frozen modules again.
    views: stored augmentations of each example.
    half: store float16 rather than float32.
    budget: bytes that a file of features must not pass.
    devices: train on only so many devices; all of them if None.
    show_progress: show bars, or lines.

  Returns:
    The folder of the last run, which holds the whole encoder.

  Raises:
    ValueError: the objective has no isolated modules, the config has
      an `init_from` of its own, `workdir` holds modules of other steps, or the
      features would pass the budget; nothing was trained.
  """
  workdir = os.path.expanduser(workdir)
  objective = config_lib.make_objective(config)
  if objective.module_configs is None:
    raise ValueError(
      'Only an encoder of isolated modules, such as that of Greedy InfoMax '
      '(objectives.gim), is trained one module after another; the config has '
      f'{type(config.objective).__module__}.'
    )
  modules = objective.module_configs()
  count = len(modules)
  if depth is None:
    depth = config.objective.depth or count
  if not 1 <= depth <= count:
    raise ValueError(f'--depth must be in 1..{count}, got {depth}.')
  if views < 1:
    raise ValueError(f'--views must be >= 1, got {views}.')
  if config.init_from is not None:
    raise ValueError(
      'Each module starts from the run of the one below it: set init_from to '
      f'None, got {config.init_from!r}.'
    )
  if store and getattr(config.data, 'stream', False):
    raise ValueError(
      '--store reads all examples at once, which data.stream=True does not: '
      'leave out one of them.'
    )
  with train.claim(workdir), lock.hold(workdir):
    return _train_all(
      config,
      modules,
      workdir,
      depth,
      store=store,
      views=views,
      half=half,
      budget=budget,
      devices=devices,
      show_progress=show_progress,
    )


def _train_all(
  config: config_lib.ExperimentConfig,
  modules: tuple[Any, ...],
  workdir: str,
  depth: int,
  *,
  store: bool,
  views: int,
  half: bool,
  budget: int,
  devices: int | None,
  show_progress: bool,
) -> str:
  """`train_modules`, of arguments that were checked."""
  dtype = np.dtype(np.float16 if half else np.float32)
  folders = [
    os.path.join(workdir, f'module_{module}') for module in range(len(modules))
  ]
  for run_dir in folders[1:]:
    _check_steps(run_dir, config.steps)
  pending = [
    i for i in range(1, depth) if not _finished(folders[i], config.steps)
  ]
  if store and pending:
    _check_sizes(
      config,
      modules,
      workdir,
      pending,
      views=views,
      dtype=dtype,
      budget=budget,
      show_progress=show_progress,
    )
  before = ''
  for module, run_dir in enumerate(folders[:depth]):
    part = dataclasses.replace(
      config,
      objective=modules[module],
      init_from=before or None,
    )
    stored = None
    if store and module in pending:
      stored = _store(
        before,
        os.path.join(workdir, f'features_{module}.npy'),
        views=views,
        dtype=dtype,
        budget=budget,
        show_progress=show_progress,
      )
    if show_progress:
      print(
        f'module_{module} of {depth} in {run_dir}', file=sys.stderr, flush=True
      )
    train.train(
      part,
      run_dir,
      stored=stored,
      devices=devices,
      show_progress=show_progress,
    )
    before = run_dir
  for name in os.listdir(workdir):
    if re.match(r'features_\d+\.npy', name):
      os.remove(os.path.join(workdir, name))
  return run_dir


def _finished(run_dir: str, steps: int) -> bool:
  """Whether a run needs no more examples."""
  path = os.path.join(run_dir, 'checkpoints', str(steps))
  return os.path.isdir(path)


def _check_steps(run_dir: str, steps: int) -> None:
  """Raises ValueError where a module was trained on modules of other steps."""
  checkpoints = pathlib.Path(run_dir, 'checkpoints').glob('*')
  if not any(path.name.isdigit() for path in checkpoints):
    return
  # The modules below it had as many.
  there = config_lib.load(run_dir)[0].steps
  if there != steps:
    raise ValueError(
      f'{run_dir!r} was trained on frozen modules of {there} steps, which '
      f'steps={steps} would change under it: choose another --workdir, or keep '
      f'--config.steps={there}.'
    )


def _check_sizes(
  config: config_lib.ExperimentConfig,
  modules: tuple[Any, ...],
  workdir: str,
  pending: list[int],
  *,
  views: int,
  dtype: np.dtype,
  budget: int,
  show_progress: bool,
) -> None:
  """Prints how large the files of features will be.

  Args:
    config: the run of all modules at once.
    modules: the objective's config for each.
    workdir: where the files will be.
    pending: the modules that will train on them, none the first.
    views: of each example.
    dtype: of the files.
    budget: bytes that none must pass.
    show_progress: print a line each.

  Raises:
    ValueError: one would pass the budget; or the config cannot be used.
  """
  last = dataclasses.replace(config, objective=modules[pending[-1]])
  config_lib.check(last)
  examples = data.training(config.data, progress=show_progress)
  rows = views * len(examples.inputs)
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
    path = os.path.join(workdir, f'features_{module}.npy')
    size = cache.size(rows, shape := features.shape[1:], dtype)
    lines.append(
      f'{path}: {rows} rows of {shape} {dtype}, {size / 2**30:.3f} GiB'
    )
    if size > budget:
      too_large.append(f'{path} would take {size / 2**30:.3g} GiB')
  if show_progress:
    print('\n'.join(lines), file=sys.stderr, flush=True)
  if too_large:
    raise ValueError(
      f'{", ".join(too_large)}; the budget is {budget / 2**30:.3g} GiB. Leave '
      '--store out, store --half or fewer --views, or raise --budget_gb; or '
      'pool (--config.objective.pool=2), in a new --workdir.'
    )


def _store(
  run_dir: str,
  path: str,
  *,
  views: int,
  dtype: np.dtype,
  budget: int,
  show_progress: bool,
) -> dict[str, np.ndarray]:
  """Stores what the modules of a run pass on, for each view of an example.

  Args:
    run_dir: the run of the module below.
    path: of the .npy file; features of the module below that lie beside it
      spare running the modules under it again.
    views: of each example.
    dtype: of the file.
    budget: bytes that it must not pass.
    show_progress: show a bar.

  Returns:
    'features', left on disk, and 'label'.
  """
  encoder = dim_jax.load(run_dir)
  config = encoder.config
  examples = data.training(config.data, progress=show_progress)
  count = len(examples.inputs)
  labels = np.tile(examples.labels[examples.label], views)
  form = [
    config_lib.to_json(config.data),
    count,
    views,
    str(dtype),
    int(_VIEW_STREAM),
  ]
  if _origin(path) == (origin := _describe(encoder, form)):
    return {'features': cache.read(path), 'label': labels}
  below = os.path.join(
    os.path.dirname(path), f'features_{config.objective.frozen}.npy'
  )
  stored = config.init_from is not None and _origin(below) == _describe(
    dim_jax.load(config.init_from), form
  )
  source = cache.read(below) if stored else examples.inputs
  advance = _forward(encoder, dtype, stored)

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

  shapes = jax.eval_shape(advance, encoder.variables, source[:1], np.arange(1))
  with (
    progress.Progress(show_progress) as bar,
    bar.task(os.path.basename(path), views * count) as task,
  ):
    values = cache.write(
      path,
      views * count,
      shapes.shape[1:],
      dtype,
      produce,
      budget=budget,
      batch_size=_ROWS,
      progress=task.update,
    )
  files.write_json(f'{path}.json', {'origin': origin})
  if stored:
    os.remove(below)
  return {'features': values, 'label': labels}


def _forward(encoder: dim_jax.Encoder, dtype: np.dtype, stored: bool) -> Any:
  """Returns what an encoder passes on: of inputs or of stored features."""
  config, outputs = encoder.config, encoder.objective.module_outputs
  if outputs is None:
    raise ValueError('the objective passes nothing on to a further module.')
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
  if not (os.path.exists(path) and os.path.exists(f'{path}.json')):
    return None
  with open(f'{path}.json', encoding='utf-8') as file:
    return json.load(file)['origin']
