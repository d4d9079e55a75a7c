"""Checkpoints of the train state, on Orbax.

A checkpoint holds arrays only. Restoring takes the shapes and the shardings of
the devices at hand, so a run moves between device counts.
"""

import os
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp


class Checkpoints:
  """The checkpoints of one run, the newest `keep` of them.

  Use as a context manager.
  """

  def __init__(
    self, run_dir: str | os.PathLike, keep: int = 2, *, owner: bool = False
  ):
    """Opens, or prepares, `run_dir`/checkpoints; relative paths are fine.

    Args:
      run_dir: the run's folder.
      keep: how many checkpoints stay.
      owner: whether this process is the run's trainer, which clears away what
        a killed write left behind; a reader must leave a live write alone.
    """
    self.directory = os.path.join(os.path.abspath(run_dir), 'checkpoints')
    self._checkpointer = ocp.training.Checkpointer(
      self.directory,
      preservation_policy=ocp.training.preservation_policies.LatestN(keep),
      cleanup_tmp_directories=owner,
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self._checkpointer.close()

  @property
  def latest(self) -> int | None:
    """Step of the newest whole checkpoint; None if there is none."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  @property
  def steps(self) -> list[int]:
    """Steps of all whole checkpoints."""
    return [c.step for c in self._checkpointer.checkpoints]

  def save(self, step: int, state: Any) -> None:
    """Writes `state`; an interrupted write leaves no checkpoint.

    Args:
      step: its step.
      state: a pytree of arrays, global ones where there are several processes.
    """
    # Not in the background: the next step takes over the state's buffers, which
    # on a CPU are the very memory that a background write would still read.
    self._checkpointer.save(step, state, force=True)

  def restore(self, state: Any, step: int | None = None) -> Any:
    """The saved state, with the shapes, dtypes and shardings of `state`.

    Args:
      state: a state of the same structure, arrays or `jax.ShapeDtypeStruct`.
      step: which checkpoint; the newest if None.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: it holds another structure or other shapes, as when a run is
        resumed with another config.
    """
    step = self.latest if step is None else step
    if step not in self.steps:
      raise FileNotFoundError(
        f'No checkpoint of step {step} in {self.directory!r}; there are '
        f'{self.steps}.'
      )
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=getattr(x, 'sharding', None)
      ),
      state,
    )
    try:
      return self._checkpointer.load(step, abstract)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'Checkpoint {step} in {self.directory!r} does not fit this config '
        f'({str(error).splitlines()[0][:200]}). Resume with the config.json '
        'that is beside it, or choose another --workdir.'
      ) from error
