"""A trained encoder, from the folder of its run or a file of its own."""

import functools
import os
import platform
import warnings
from typing import Any

import flax
import jax
import numpy as np

from dim_jax import config as config_lib
from dim_jax import export as export_lib
from dim_jax.data import batches
from dim_jax.data.load import as_batch
from dim_jax.objective import Batch, PyTree

_STORED: dict[str, type] = {
  'image': np.uint8,
  'audio': np.int16,
  'point': np.float32,
  'text': np.int32,
}
# What resampling may add beyond black and white at edges, of a range of 2.
_OVERSHOOT = 0.25


class Encoder:
  """A frozen encoder: images, sound or points in, a dictionary of features out.

  Attributes:
    config: the run's config.
    step: how many steps it was trained; 0 means untrained.
    variables: (params, model_state) of the objective; from a file, what it
      holds of them.
    input_shape: [H, W, C] of images, [T] of sound or [D] of points.
    averaged: whether the parameters are a moving average of the run's.
    objective: the run's method.
  """

  def __init__(
    self,
    config: config_lib.ExperimentConfig,
    step: int,
    variables: Any,
    input_shape: tuple[int, ...],
    averaged: bool,
  ):
    """See `load`."""
    self.config, self.step, self.variables = config, step, variables
    self.input_shape, self.averaged = input_shape, averaged
    self.objective = config_lib.make_objective(config)
    self._compiled: Any = jax.jit(self.encode)

  def encode(self, variables: Any, batch: Batch) -> dict[str, jax.Array]:
    """Encodes a batch; pure, to be compiled into programs of your own.

    Args:
      variables: such as `self.variables`.
      batch: 'image', uint8 or float32 in [-1, 1], [N, H, W, C]; 'audio',
        int16 or float32 in [-1, 1], [N, T]; or 'point', float32 [N, D].

    Returns:
      Features by name.
    """
    params, model_state = variables
    return self.objective.encode(params, model_state, batch)

  def __call__(
    self, examples: np.ndarray, batch_size: int = 256
  ) -> dict[str, np.ndarray]:
    """Encodes any number of examples.

    Args:
      examples: what the run learned from: images, uint8 or float32 in [-1, 1],
        shape [N, H, W, C]; sound, int16 or float32 in [-1, 1], shape [N, T]; or
        points, floats of shape [N, D].
      batch_size: examples at a time; the last batch is padded, so that one
        compilation serves all.

    Returns:
      Features by name, each of N rows.

    Raises:
      ValueError: the examples have another rank, dtype, scale, number of
        channels or a size that the encoder cannot take.
    """
    examples = np.asarray(examples)
    name = self.config.data.kind
    as_batch(examples, name)
    if not len(examples):
      raise ValueError(f'There must be an example, got shape {examples.shape}.')
    channels = self.input_shape[2:]
    if examples.shape[3:] != channels:
      raise ValueError(
        f'the encoder was trained on {channels[0]}-channel images, got shape '
        f'{examples.shape}: convert them first.'
      )
    stored = np.dtype(_STORED[name])
    floating = name != 'text' and np.issubdtype(examples.dtype, np.floating)
    if examples.dtype != stored and not floating:
      other = ', or float in [-1, 1]' if name in ('image', 'audio') else ''
      raise ValueError(
        f"'{name}' must be {stored}{other}, got {examples.dtype}."
      )
    if floating and name != 'point':
      _check_scale(name, examples)
    try:
      return batches.map_padded(
        lambda _, part: self._compiled(self.variables, {name: part}),
        batch_size,
        examples,
      )
    except flax.errors.ScopeParamShapeError:
      raise ValueError(
        f'the encoder was trained on examples of shape {self.input_shape} and '
        f'cannot take those of shape {examples.shape[1:]}: resize or cut them '
        'first.'
      ) from None

  def export(
    self, path: str | os.PathLike, *, all_groups: bool = False
  ) -> None:
    """Writes one file of plain arrays and JSON, for `load` or NumPy alone.

    Args:
      path: the file, such as 'encoder.npz', which must not be there yet; its
        layout is that of `dim_jax.export`.
      all_groups: store critics, probes and whatever else was trained too, and
        not only what encoding reads.

    Raises:
      FileExistsError: the file is there.
    """
    from dim_jax import __version__  # Known once all of the package is.

    kind = self.config.data.kind
    example = as_batch(np.zeros((2, *self.input_shape), _STORED[kind]), kind)
    variables = self.variables
    if not all_groups:
      variables = _read_parts(self.encode, variables, example)
    features = jax.eval_shape(self.encode, variables, example)
    header = {
      'config': config_lib.to_json(self.config),
      'input': {
        'kind': kind,
        'shape': self.input_shape,
        'dtype': np.dtype(_STORED[kind]).name,
      },
      'features': {name: x.shape[1:] for name, x in features.items()},
      'step': int(self.step),
      'averaged': self.averaged,
      'versions': {
        'python': platform.python_version(),
        'dim_jax': __version__,
        'flax': flax.__version__,
        'jax': jax.__version__,
        'numpy': np.__version__,
      },
    }
    params, model_state = variables
    tree = {'params': params, 'model_state': model_state}
    export_lib.write(path, header, tree)


def _check_scale(name: str, examples: np.ndarray) -> None:
  """Raises ValueError where floats are not in [-1, 1], warns of [0, 1]."""
  low, high = examples.min(), examples.max()
  # NaN does not pass either.
  if not (low >= -1 - _OVERSHOOT and high <= 1 + _OVERSHOOT):
    scaled = {'image': 'x / 127.5 - 1', 'audio': 'x / 32768'}[name]
    raise ValueError(
      f"'{name}' of floats must lie in [-1, 1], got values from {low:g} to "
      f'{high:g}: pass {np.dtype(_STORED[name])}, or {scaled} of those.'
    )
  if name == 'image' and low >= 0 < high:
    warnings.warn(
      'all pixels are in [0, 1], but floats mean black at -1 and white at 1: '
      'pass 2 * x - 1, or uint8.',
      stacklevel=3,
    )


def _read_parts(encode: Any, variables: Any, batch: Batch) -> Any:
  """What encoding reads: parameter groups, and of each its parts."""
  jaxpr = jax.make_jaxpr(encode)(variables, batch).jaxpr
  read = {id(x) for equation in jaxpr.eqns for x in equation.invars}
  read |= {id(x) for x in jaxpr.outvars}
  leaves, structure = jax.tree.flatten(variables)
  flags = [id(x) in read for x in jaxpr.invars[: len(leaves)]]

  def kept(part: PyTree, flags: PyTree, depth: int) -> PyTree:
    if depth == 0 or not isinstance(part, dict):
      return part
    return {
      k: kept(v, flags[k], depth - 1)
      for k, v in part.items()
      # Code may ask for an empty dictionary, and it costs nothing.
      if any(jax.tree.leaves(flags[k])) or not jax.tree.leaves(v)
    }

  chosen = tuple(
    kept(part, flag, 2)
    for part, flag in zip(
      variables, jax.tree.unflatten(structure, flags), strict=True
    )
  )
  try:
    jax.eval_shape(encode, chosen, batch)
  except Exception:  # Whatever a network raises that asks for what it ignores.
    return variables
  return chosen


def load(
  run_dir: str | os.PathLike,
  step: int | None = None,
  *,
  average: bool = True,
) -> Encoder:
  """Loads a run's encoder, onto whatever devices are here.

  Args:
    run_dir: the --workdir of a run, or a file that `Encoder.export` wrote.
    step: which checkpoint; the newest if None. 0 gives the encoder with random
      weights, from the run's own seed. What a run with `init_from` started at
      is the encoder of that run.
    average: use the moving average of the parameters where the run kept one
      (`config.average`); False gives the last parameters.

  Returns:
    The encoder: `load(run_dir)(examples)` is a dictionary of features.

  Raises:
    FileNotFoundError: the folder is no run, or has no such checkpoint.
    ValueError: the file is damaged or of something else, or holds another step
      or an average.
  """
  run_dir = os.path.expanduser(run_dir)
  if os.path.isfile(run_dir):
    return _load_file(run_dir, step, average)
  # Orbax is slow to import, and `import dim_jax` should not be.
  from dim_jax.training import checkpoint
  from dim_jax.training import step as step_lib

  config, input_shape = config_lib.load(run_dir)
  objective = config_lib.make_objective(config)
  kind = config.data.kind
  template = as_batch(np.zeros((2, *input_shape), _STORED[kind]), kind)
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), template)
  optimizer = step_lib.optimizer_of(config, objective, params)
  init = functools.partial(step_lib.init_state, objective, optimizer)
  with checkpoint.Checkpoints(run_dir, config.keep) as checkpoints:
    # A run keeps the kind of random numbers that it was begun with.
    rng = jax.random.key(config.seed, impl=checkpoints.key_impl())
    if step == 0:
      state = jax.jit(init)(template, rng)
      variables = state.params, state.model_state
      return Encoder(config, 0, variables, input_shape, False)
    step = checkpoints.latest if step is None else step
    if step is None:
      raise FileNotFoundError(
        f'{os.fspath(run_dir)!r} has no checkpoint yet: train it for at least '
        f'{config.checkpoint_every} steps (checkpoint_every).'
      )
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      jax.eval_shape(init, template, rng),
    )
    state = checkpoints.restore(abstract, step, any_width=True)
  decay = config.average if average else None
  params = step_lib.averaged_params(state, decay)
  return Encoder(
    config, step, (params, state.model_state), input_shape, decay is not None
  )


def _load_file(
  path: str | os.PathLike, step: int | None, average: bool
) -> Encoder:
  header, tree = export_lib.read(path)
  if step not in (None, header['step']):
    raise ValueError(
      f'{os.fspath(path)!r} holds step {header["step"]} alone, not {step}: '
      "load the run's folder, or leave step out."
    )
  if header['averaged'] and not average:
    raise ValueError(
      f'{os.fspath(path)!r} holds the average of the parameters alone: load '
      "the run's folder for the last ones."
    )
  return Encoder(
    config_lib.from_json(header['config']),
    header['step'],
    (tree['params'], tree['model_state']),
    tuple(header['input']['shape']),
    header['averaged'],
  )
