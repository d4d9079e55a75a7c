"""A trained encoder, from the folder of its run."""

import functools
import os
from typing import Any

import jax
import numpy as np

from dim_jax import config as config_lib
from dim_jax.objective import Batch, as_batch

_STORED: dict[str, type] = {
  'image': np.uint8,
  'audio': np.int16,
  'point': np.float32,
}


class Encoder:
  """A frozen encoder: images, sound or points in, a dictionary of taps out.

  Attributes:
    config: the run's config.
    step: how many steps it was trained; 0 means untrained.
    variables: (params, model_state) of the whole objective.
  """

  def __init__(
    self, config: config_lib.ExperimentConfig, step: int, variables: Any
  ):
    """See `load`."""
    self.config, self.step, self.variables = config, step, variables
    self._objective = config_lib.make_objective(config)
    self._compiled: Any = jax.jit(self.encode)

  def encode(self, variables: Any, batch: Batch) -> dict[str, jax.Array]:
    """The pure function behind the call, to compile into programs of your own.

    Args:
      variables: such as `self.variables`.
      batch: 'image', uint8 or float32 in [-1, 1], [N, H, W, C]; 'audio',
        int16 or float32 in [-1, 1], [N, T]; or 'point', float32 [N, D].

    Returns:
      Features by tap.
    """
    params, model_state = variables
    return self._objective.encode(params, model_state, batch)

  def __call__(
    self, examples: np.ndarray, batch_size: int = 256
  ) -> dict[str, np.ndarray]:
    """Features of any number of examples.

    Args:
      examples: what the run learned from: images, uint8 or float32 in [-1, 1],
        shape [N, H, W, C]; sound, int16 or float32 in [-1, 1], shape [N, T]; or
        points, floats of shape [N, D].
      batch_size: examples at a time; the last batch is padded, so that one
        compilation serves all.

    Returns:
      Features by tap, each of N rows.

    Raises:
      ValueError: the examples have another rank, size or dtype.
    """
    examples = np.asarray(examples)
    name = self.config.data.kind
    as_batch(examples, name)
    if not len(examples):
      raise ValueError(f'There must be an example, got shape {examples.shape}.')
    stored = np.dtype(_STORED[name])
    floating = np.issubdtype(examples.dtype, np.floating)
    if examples.dtype != stored and not floating:
      other = '' if stored == np.float32 else ', or float in [-1, 1]'
      raise ValueError(
        f"'{name}' must be {stored}{other}, got {examples.dtype}."
      )
    size = min(batch_size, len(examples))
    rows = []
    for start in range(0, len(examples), size):
      part = examples[start : start + size]
      padding = [(0, size - len(part))] + [(0, 0)] * (examples.ndim - 1)
      taps = self._compiled(self.variables, {name: np.pad(part, padding)})
      rows.append({k: np.asarray(v)[: len(part)] for k, v in taps.items()})
    return {tap: np.concatenate([r[tap] for r in rows]) for tap in rows[0]}


def load(
  run_dir: str | os.PathLike,
  step: int | None = None,
  *,
  average: bool = True,
) -> Encoder:
  """Loads a run's encoder, onto whatever devices are here.

  Args:
    run_dir: the --workdir of a run.
    step: which checkpoint; the newest if None. 0 gives the encoder as it was
      before training, from the run's own seed.
    average: use the moving average of the parameters where the run kept one
      (`config.average`); False gives the last parameters.

  Returns:
    The encoder: `load(run_dir)(examples)` is a dictionary of taps.

  Raises:
    FileNotFoundError: the folder is no run, or has no such checkpoint.
  """
  # Orbax is slow to import, and `import dim_jax` should not be.
  from dim_jax.training import checkpoint
  from dim_jax.training import step as step_lib

  config, input_shape = config_lib.load(run_dir)
  objective = config_lib.make_objective(config)
  kind = config.data.kind
  template = as_batch(np.zeros((2, *input_shape), _STORED[kind]), kind)
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), template)
  optimizer = step_lib.make_optimizer(
    config.optimizer, config.players, params, config.average
  )
  init = functools.partial(step_lib.init_state, objective, optimizer)
  rng = jax.random.key(config.seed)
  if step == 0:
    state = jax.jit(init)(template, rng)
    return Encoder(config, 0, (state.params, state.model_state))
  with checkpoint.Checkpoints(run_dir, config.keep) as checkpoints:
    step = checkpoints.latest if step is None else step
    if step is None:
      raise FileNotFoundError(
        f'{os.fspath(run_dir)!r} has no checkpoint yet: train it for at least '
        f'{config.checkpoint_every} steps (checkpoint_every).'
      )
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      jax.eval_shape(init, template, rng),
    )
    state = checkpoints.restore(abstract, step)
  decay = config.average if average else None
  params = step_lib.averaged_params(state, decay)
  return Encoder(config, step, (params, state.model_state))
