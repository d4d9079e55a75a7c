"""What a run will take, from its config alone: sizes, FLOPs, memory, ceilings.

One training step is compiled, and no example is read; of a folder of images the
names, and the header of one.
"""

import contextlib
import dataclasses
import functools
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import config as config_lib
from dim_jax.data import augment, decode, folders, points, sources
from dim_jax.data import load as data
from dim_jax.data.load import as_batch
from dim_jax.objective import Objective
from dim_jax.runs import hlo, provenance, slices
from dim_jax.training import feed, loop, parallel, pipeline
from dim_jax.training import step as step_lib

# [H, W, C] and training images of the stored data sets, validation included.
_IMAGES = {
  'digits': ((8, 8, 1), 1_438),
  'mnist': ((28, 28, 1), 60_000),
  'cifar10': ((32, 32, 3), 50_000),
  'cifar100': ((32, 32, 3), 50_000),
  'stl10': ((96, 96, 3), 5_000),
}
_UNLABELLED = 100_000  # of stl10


class Shapes(NamedTuple):
  """The examples of a config.

  Attributes:
    stored: as they are kept for training, such as [H, W, C].
    seen: as objectives see them, less what augmentation cuts off.
    dtype: of both.
    examples: how many to train on; None where only reading would tell.
    labelled: whether they come with labels.
  """

  stored: tuple[int, ...]
  seen: tuple[int, ...]
  dtype: Any
  examples: int | None
  labelled: bool


def shapes(config: data.Config) -> Shapes:
  """Returns the shapes of a config's training examples; reads none.

  Raises:
    ValueError: a field cannot be used.
    FileNotFoundError: there is no such folder of images.
  """
  if isinstance(config, config_lib.SoundConfig):
    shape: tuple[int, ...] = (config.window,)
    return Shapes(shape, shape, np.int16, None, True)
  if isinstance(config, config_lib.PointConfig):
    shape = points.moments(config.name)[0].shape
    count = config.count - round(config.validation * config.count)
    return Shapes(shape, shape, np.float32, count, False)
  if isinstance(config, config_lib.TextConfig):
    shape = (2, config.length)
    return Shapes(shape, shape, np.int32, None, False)
  split = sources.UNLABELLED if config.unlabelled else 'train'
  sources.check(config.name, split, config.image_size, config.validation)
  shape, count = _images(config)
  if config.image_size is not None:
    shape = (config.image_size, config.image_size, shape[2])
  if config.grayscale:
    shape = (*shape[:2], 1)
  side = config.crop
  seen = shape if side is None else (side, side, shape[2])
  return Shapes(shape, seen, np.uint8, count, True)


def _images(config: config_lib.DataConfig) -> tuple[tuple[int, ...], int]:
  """Returns the stored shape, and the number of training images."""
  root = folders.path_of(config.name, sources.NAMES)
  if root is None:
    shape, labelled = _IMAGES[config.name]
    if config.name == 'digits' and config.image_size is None:
      shape = (32, 32, 1)  # They are always enlarged.
    unlabelled = _UNLABELLED
  else:
    if not root.exists():
      raise FileNotFoundError(f'There is no folder {os.fspath(root)!r}.')
    parts = folders.parts(root)
    if config.unlabelled and sources.UNLABELLED not in parts:
      raise ValueError(
        f'{root} has no folder {sources.UNLABELLED!r}: leave data.unlabelled '
        'at False.'
      )
    (header,) = decode.headers(parts['train'].paths[:1])
    shape = (header.height, header.width, 1 if header.gray else 3)
    labelled = len(parts['train'].paths)
    unlabelled = len(parts['unlabelled'].paths) if config.unlabelled else 0
  labelled -= round(config.validation * labelled)
  if not config.unlabelled:
    return shape, labelled
  both = config.labelled is not None or config.labels_per_class is not None
  return shape, unlabelled + (labelled if both else 0)


def measure(
  config: config_lib.ExperimentConfig,
  devices: int | None = None,
  topology: str | None = None,
) -> dict[str, Any]:
  """Compiles one step of a run and counts.

  Args:
    config: the run.
    devices: use only this many devices; all of them if None.
    topology: compile for this TPU slice, such as 'v5e:16x16', instead of this
      host's devices; needs no TPU. See `dim_jax.runs.slices`.

  Returns:
    'shape', 'dtype' and 'examples' of the data; 'parameters', how many by
    group; 'batch', 'steps' and 'devices'; 'flops' of a step of the whole
    batch; 'memory', bytes on each device by what they are for, or None where
    the compiler does not say; what `hlo.summary` returns, of what the devices
    exchange in a step; 'negatives' of an anchor and 'ceilings' in nats, by
    term, and of how many examples, 'negatives_of'. Of a topology, 'slice'
    instead of memory and exchange: what `slices.compile_for` returns, with
    'efficiency' where there are more than `slices.REFERENCE` chips, and a step
    of so many can be made of as many examples a chip.

  Raises:
    ValueError: the config cannot be trained, or not so.
  """
  config_lib.check(config)
  if topology is not None:
    _check_slice(config, devices, topology)
    mesh = parallel.make_mesh(among=slices.devices(topology))
  else:
    mesh = parallel.make_mesh(1 if config.parallel == 'pipeline' else devices)
    parallel.check_batch_size(config.batch_size, mesh.size, config.accumulate)
  run = _run(config)
  report = {
    'name': config.data.name,
    'shape': run.shapes.stored,
    'dtype': np.dtype(run.shapes.dtype).name,
    'examples': run.shapes.examples,
    'parameters': {
      name: provenance.count(tree) for name, tree in run.state.params.items()
    },
    'batch': config.batch_size,
    'steps': config.steps,
    'devices': mesh.size,
    'device': mesh.devices.flat[0].device_kind,
    **_terms(config, run),
  }
  if topology is None:
    compiled = _lower(config, run, mesh, parallel.memory(mesh)).compile()
    cost = compiled.cost_analysis() or {}
    # XLA counts what one device does.
    flops = cost.get('flops', math.nan) * mesh.size
    report |= {'flops': flops, 'memory': _memory(compiled)}
    return report | hlo.summary(compiled.as_text() or '', mesh.size)
  one = slices.compile_for(topology, _lower(config, run, mesh, _hbm(topology)))
  if mesh.size > slices.REFERENCE:
    few = dataclasses.replace(
      config, batch_size=config.batch_size // mesh.size * slices.REFERENCE
    )
    # Groups of examples may be larger than what few chips have of them.
    with contextlib.suppress(ValueError):
      base = on_slice(few, slices.reference(topology))
      one['efficiency'] = slices.efficiency(one, base)
  return report | {'flops': one['flops'] * mesh.size, 'slice': one}


def on_slice(
  config: config_lib.ExperimentConfig, topology: str
) -> dict[str, Any]:
  """Compiles one step of a run for a TPU slice; needs no TPU.

  Args:
    config: the run.
    topology: the slice, such as 'v5e:16x16'.

  Returns:
    What `slices.compile_for` does.

  Raises:
    ValueError: the config cannot be trained, or not so.
  """
  _check_slice(config, None, topology)
  mesh = parallel.make_mesh(among=slices.devices(topology))
  lowered = _lower(config, _run(config), mesh, _hbm(topology))
  return slices.compile_for(topology, lowered)


def _hbm(topology: str) -> float:
  return slices.parse(topology)[0].hbm


def _check_slice(
  config: config_lib.ExperimentConfig, devices: int | None, topology: str
) -> None:
  """Raises ValueError where a run cannot be compiled for a slice."""
  _, chips = slices.parse(topology)
  if devices is not None:
    raise ValueError(
      f'--topology={topology} is all of its {chips:,} chips: leave out '
      '--devices.'
    )
  if config.parallel != 'jit':
    raise ValueError(
      f"--topology compiles parallel='jit', got {config.parallel!r}: the other "
      'forms stay on one host.'
    )
  each = chips * config.accumulate
  if config.batch_size % each:
    nearest = max(1, round(config.batch_size / each)) * each
    parts = f' in {config.accumulate} parts' if config.accumulate > 1 else ''
    raise ValueError(
      f'batch_size {config.batch_size} does not divide{parts} over the '
      f'{chips:,} chips of {topology}: use a multiple of {each:,}, such as '
      f'--config.batch_size={nearest} ({nearest // chips} a chip).'
    )


class _Run(NamedTuple):
  """A run, of which nothing is there but shapes."""

  shapes: Shapes
  objective: Objective
  optimizer: Any
  state: step_lib.TrainState


def _run(config: config_lib.ExperimentConfig) -> _Run:
  """Raises ValueError where the objective cannot train on the data."""
  found = shapes(config.data)
  # Under pmap and as a pipeline the step is the same, in other parts.
  objective = config_lib.make_objective(config)
  if config.parallel == 'pipeline':
    pipeline.check(objective)
  if found.examples is not None:
    objective.check_size(found.examples)
  example = _batch(config, found, objective.indexed, found.seen, 2)
  variables = jax.eval_shape(objective.init, jax.random.key(0), example)
  optimizer = step_lib.optimizer_of(config, objective, variables[0])
  init = functools.partial(step_lib.init_state, objective, optimizer)
  state = jax.eval_shape(init, example, jax.random.key(0))
  return _Run(found, objective, optimizer, state)


def _lower(
  config: config_lib.ExperimentConfig,
  run: _Run,
  mesh: jax.sharding.Mesh,
  memory: float | None,
) -> jax.stages.Lowered:
  """Returns the program of one step, on devices of so many bytes."""
  found, objective, optimizer, state = run
  chunk: Any = loop.make_chunk(
    objective,
    optimizer,
    mesh,
    augment=augment.make(config.data, found.stored[-1]),
    accumulate=config.accumulate,
    split=state if config.zero else None,
  )
  batch = functools.partial(_batch, config, found, objective.indexed)
  if found.examples is not None and not getattr(config.data, 'stream', False):
    stored = batch(found.stored, found.examples)
    if not feed.too_large(stored, memory):
      rows: Any = jax.ShapeDtypeStruct((1, config.batch_size), jnp.int32)
      return chunk.lower(state, stored, rows)
  # What is read ahead: the examples themselves.
  rows = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype),
    batch(found.stored, config.batch_size),
  )
  return chunk.lower(state, {}, rows)


def _terms(config: config_lib.ExperimentConfig, run: _Run) -> dict[str, Any]:
  """Returns the negatives of an anchor and the ceilings, by term."""
  found, objective = run.shapes, run.objective
  part = config.batch_size // config.accumulate
  batch = _batch(config, found, objective.indexed, found.seen, part)
  terms = objective.negatives(batch)
  ceilings = {k: v for k, (_, v) in terms.items() if v is not None}
  if objective.supervised:
    ceilings['information on the label'] = math.log(objective.classes)
  return {
    'negatives': {name: count for name, (count, _) in terms.items()},
    'negatives_of': objective.negatives_of or part,
    'ceilings': ceilings,
  }


def _batch(
  config: config_lib.ExperimentConfig,
  found: Shapes,
  indexed: bool,
  shape: tuple[int, ...],
  rows: int | None,
) -> dict[str, Any]:
  examples = jax.ShapeDtypeStruct((rows, *shape), found.dtype)
  batch = as_batch(examples, config.data.kind)
  if found.labelled:
    batch['label'] = jax.ShapeDtypeStruct((rows,), jnp.int32)
  if indexed:
    batch['index'] = jax.ShapeDtypeStruct((rows,), jnp.int32)
  return batch


def _memory(compiled: Any) -> dict[str, int] | None:
  found = compiled.memory_analysis()
  if found is None:
    return None
  parts = {
    'state and data': found.argument_size_in_bytes,
    'temporary': found.temp_size_in_bytes,
    'new state': found.output_size_in_bytes - found.alias_size_in_bytes,
    'program': found.generated_code_size_in_bytes,
  }
  return parts | {'total': sum(parts.values())}


def text(report: dict[str, Any]) -> str:
  """Formats what `measure` returned, for people."""
  shape = ' x '.join(map(str, report['shape']))
  count, batch, steps = (report[k] for k in ('examples', 'batch', 'steps'))
  many = 'as many as there are' if count is None else f'{count:,} to train on'
  lines = [('data', f'{report["name"]}: {shape} {report["dtype"]}, {many}')]
  length = f'{batch:,} examples a step, {steps:,} steps'
  if count is not None:
    length += f' ({steps * batch / count:.1f} epochs)'
  where = f'{report["devices"]} x {report["device"]}'
  lines.append(('batch', f'{length} on {where}'))
  parameters = report['parameters']
  each = ', '.join(f'{name} {size:,}' for name, size in parameters.items())
  lines.append(('parameters', f'{sum(parameters.values()):,}: {each}'))
  flops = f'{report["flops"]:.3g} a step, {report["flops"] * steps:.3g} in all'
  flops += ', as the compiler counts (the body of a loop inside a step once)'
  if 'slice' in report:
    lines += slices.lines(report['slice'])
  else:
    lines.append(('FLOPs', flops))
  memory = dict(report.get('memory') or {})
  if memory:
    total = memory.pop('total')
    each = ', '.join(f'{k} {v / 2**20:,.1f}' for k, v in memory.items())
    lines.append(('memory', f'{total / 2**20:,.1f} MiB on each device: {each}'))
  if report.get('collectives'):
    lines.append(('collectives', slices.communication(report)))
  for name in sorted({**report['negatives'], **report['ceilings']}):
    words = []
    if name in report['negatives']:
      words.append(
        f'{report["negatives"][name]:,} negatives an anchor, of '
        f'{report["negatives_of"]:,} examples'
      )
    if name in report['ceilings']:
      words.append(f'at most {report["ceilings"][name]:.3f} nats')
    else:
      words.append('no ceiling')
    lines.append((name, ', '.join(words)))
  width = max(len(name) for name, _ in lines)
  return '\n'.join(f'{name:{width}}  {words}' for name, words in lines)
