"""Trains what a config says.

  python -m experiments.train --config=experiments/configs/dim_digits.py \
      --workdir=runs/digits --config.steps=300

The same command on the same --workdir continues a run that was interrupted.
"""

import dataclasses
import os
import runpy
import sys

import jax
import rich.console
from absl import app, flags, logging
from ml_collections import config_flags

from dim_jax import config as config_lib
from dim_jax.data import augment, sources
from dim_jax.evaluation import features
from dim_jax.training import loop, parallel
from dim_jax.training import step as step_lib
from experiments import classify, sweep

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The run, a file.')
_WORKDIR = flags.DEFINE_string('workdir', None, "The run's folder.")
_DEVICES = flags.DEFINE_integer('devices', None, 'Use only so many devices.')
flags.mark_flags_as_required(['config', 'workdir'])

# A run may be made longer, or kept and shown otherwise, when it goes on; any
# other change would make it another run.
_FREE = ('steps', 'checkpoint_every', 'keep', 'tensorboard', 'paper')


def train(
  config: config_lib.ExperimentConfig,
  workdir: str,
  *,
  devices: int | None = None,
  show_progress: bool = True,
) -> step_lib.TrainState:
  """Trains or continues the run in `workdir`; see `dim_jax.training.loop.fit`.

  Args:
    config: the run.
    workdir: its folder.
    devices: use only so many devices; all of them if None.
    show_progress: show a bar, or lines.

  Returns:
    The final state.
  """
  config_lib.check(config)
  if os.path.exists(os.path.join(workdir, 'config.json')):
    _check_same(config, config_lib.load(workdir)[0], workdir)
  axis_name = 'data' if config.parallel == 'pmap' else None
  objective = config_lib.make_objective(config, axis_name)
  data = {
    split: sources.load(
      config.data.name,
      split,
      image_size=config.data.image_size,
      data_dir=config.data.data_dir,
      validation=config.data.validation,
      progress=show_progress,
    )
    for split in ('train', 'validation')[: 2 if config.data.validation else 1]
  }
  train_set = {'image': data['train'].images, 'label': data['train'].labels}
  classify.check_labels(config.objective, data['train'])
  example = {name: values[:2] for name, values in train_set.items()}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), example)
  optimizer = step_lib.make_optimizer(
    config.optimizer, config.players, params, config.average
  )
  os.makedirs(workdir, exist_ok=True)
  if jax.process_index() == 0:
    config_lib.save(config, workdir, train_set['image'].shape[1:])
  # A run on all training images watches for collapse on some of them.
  held_out = {'image': data.get('validation', data['train']).images[:512]}
  return loop.fit(
    objective,
    optimizer,
    train_set,
    run_dir=workdir,
    batch_size=config.batch_size,
    steps=config.steps,
    seed=config.seed,
    log_every=config.log_every,
    checkpoint_every=config.checkpoint_every,
    keep=config.keep,
    form=config.parallel,
    devices=devices,
    augment=_augment(config.data),
    monitor=features.collapse_monitor(objective.encode, held_out),
    tensorboard=config.tensorboard,
    show_progress=show_progress,
  )


def _augment(config: config_lib.DataConfig) -> loop.Augment | None:
  if not config.flip and not config.crop_padding:
    return None

  def apply(
    rng: jax.Array, images: jax.Array, positions: jax.Array
  ) -> jax.Array:
    flip_rng, crop_rng = jax.random.split(rng)
    if config.flip:
      keys = augment.example_keys(flip_rng, positions)
      images = augment.random_flip(keys, images)
    if config.crop_padding:
      keys = augment.example_keys(crop_rng, positions)
      images = augment.random_crop(keys, images, config.crop_padding)
    return images

  return apply


def _check_same(
  config: config_lib.ExperimentConfig,
  saved: config_lib.ExperimentConfig,
  workdir: str,
) -> None:
  """Raises ValueError where `workdir` holds a run of another config."""
  for field in dataclasses.fields(config):
    new = config_lib.to_json(getattr(config, field.name))
    old = config_lib.to_json(getattr(saved, field.name))
    if field.name not in _FREE and new != old:
      where = field.name
      if isinstance(new, dict) and isinstance(old, dict):
        name = next(k for k in new | old if new.get(k) != old.get(k))
        where, new, old = f'{where}.{name}', new.get(name), old.get(name)
      raise ValueError(
        f'{workdir!r} holds a run with {where} = {old!r}, this one has '
        f'{new!r}: choose another --workdir, or delete that folder.'
      )


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; a wrong `--config.a.b` names what is accepted."""
  words = [arg.lstrip('-').partition('=') for arg in argv[1:]]
  files = [value for name, _, value in words if name == 'config']
  if files and not os.path.isfile(files[-1]):
    sys.exit(
      f'Error: no file {files[-1]!r} for --config; experiments/configs/ has '
      f'one for each experiment.'
    )
  try:
    return flags.FLAGS(argv)
  except KeyError:
    # What ml_collections raises for a field that does not exist.
    if not files:
      raise
    config = runpy.run_path(files[-1])['get_config']()
    for name, _, _ in words:
      if name.startswith('config.'):
        try:
          config_lib.check_path(config, name.removeprefix('config.'))
        except ValueError as unknown:
          sys.exit(f'Error: {unknown}')
    raise
  except flags.Error as error:
    sys.exit(f'Error: {error}')


def main(argv: list[str]) -> None:
  """Runs `train`, with a user's mistakes as one line each."""
  if len(argv) > 1:
    sys.exit(f'Error: unknown arguments {argv[1:]}; flags begin with --.')
  # Orbax tells of every file that it writes.
  logging.set_verbosity(logging.WARNING)
  try:
    parallel.initialize()
    parallel.cache_compilations()
    config, workdir = _CONFIG.value, str(_WORKDIR.value)
    if isinstance(config, config_lib.SweepConfig):
      if _DEVICES.value not in (None, 1):
        raise ValueError('a sweep runs on one device: leave --devices out.')
      console = rich.console.Console()
      console.print(sweep.table(sweep.sweep(config, workdir)))
      console.print(os.path.join(workdir, 'sweep.json'))
    else:
      train(config, workdir, devices=_DEVICES.value)
  except (
    ValueError,
    FileNotFoundError,
    FloatingPointError,
    RuntimeError,
  ) as error:
    if os.environ.get('DIM_JAX_TRACEBACK'):
      raise
    sys.exit(f'Error: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
