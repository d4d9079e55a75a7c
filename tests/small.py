"""A few images, and an objective's gradients of them, for tests to compare."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.objectives import dim
from dim_jax.training import loop, parallel

KEY = np.asarray([0, 1], np.uint32)


def images(n=8, size=8):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (n, size, size, 1), dtype=np.uint8),
    'label': rng.integers(0, 3, n).astype(np.int32),
  }


def dim_config(**fields):
  """A `dim.Config` of fields as flags name them, with __ for each dot.

  Options of a mask, coordinates or a classifier wait for its kind or weight.
  """
  kinds = {
    'prior': (dim.Prior, 'weight'),
    'mask': (dim.Mask, 'kind'),
    'coordinates': (dim.Coordinates, 'kind'),
    'supervised': (dim.Supervised, 'weight'),
    'memory': (dim.Memory, None),
  }
  groups = {name: {} for name in kinds}
  for name in list(fields):
    group, _, field = name.partition('__')
    if field:
      groups[group][field] = fields.pop(name)
  for name, (kind, needed) in kinds.items():
    if groups[name] and (name == 'prior' or groups[name].get(needed, True)):
      if name in ('prior', 'memory') or groups[name].get(needed) is not None:
        fields[name] = kind(**groups[name])
  return dim.Config(**fields)


def start(objective, batch):
  """Variables from NumPy: XLA takes long to compile the samplers."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  rng = np.random.default_rng(1)

  def draw(x):
    if x.ndim < 2:
      return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
    values = rng.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1]))
    return jnp.asarray(values, x.dtype)

  return jax.tree.map(draw, jax.eval_shape(objective.init, key, batch))


def gradients(objective, variables, batch):
  """((loss, (metrics, model_state)), gradients), all in NumPy."""
  grad = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  found = grad(*variables, batch, jax.random.wrap_key_data(KEY))
  return jax.tree.map(np.asarray, found)


def assert_same(result, expected, tolerance=1e-5):
  assert jax.tree.structure(result) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
    scale = max(1.0, np.abs(b).max())
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


def in_all_forms(make, fresh, optimizer, batch, *, devices=8, accumulate=1):
  """Two equal steps on one device, and on several under jit and pmap.

  Args:
    make: `axis_name -> objective`.
    fresh: the state before the first step, whose arrays stay.
    optimizer: of all.
    batch: of both steps.
    devices: how many.
    accumulate: into how many micro-batches.

  Returns:
    (params, model_state, metrics) by 'one', 'jit' and 'pmap', in NumPy.
  """
  twice = jax.tree.map(lambda x: np.stack([x, x]), dict(batch))
  forms = {}
  for name, count, axis_name in (
    ('one', 1, None),
    ('jit', devices, None),
    ('pmap', devices, 'data'),
  ):
    mesh = parallel.make_mesh(count)
    chunk = loop.make_chunk(
      make(axis_name),
      optimizer,
      mesh,
      form='pmap' if axis_name else 'jit',
      accumulate=accumulate,
    )
    # Steps donate their state.
    state = parallel.replicate(jax.tree.map(jnp.copy, fresh), mesh)
    examples = jax.device_put(twice, parallel.columns(mesh))
    state, metrics = chunk(state, {}, examples)
    forms[name] = jax.device_get((state.params, state.model_state, metrics))
  return forms


_COLLECTIVE = re.compile(
  r'= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|'
  r'collective-permute)(?:-start)?\('
)


def collectives(text):
  """What devices exchange, by the text of a compiled program.

  Returns:
    [(name, shapes of its results, whether in a loop), ...].
  """
  blocks, name = {}, None
  for line in text.splitlines():
    if start := re.match(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$', line):
      name = start[1]
    blocks.setdefault(name, []).append(line)

  def called(lines):
    found = re.findall(
      r'(?:body|condition|calls|to_apply)=%?([\w.-]+)', '\n'.join(lines)
    )
    return {x for x in found if x in blocks}

  looped = called([x for x in text.splitlines() if ' while(' in x])
  while more := set().union(*(called(blocks[x]) for x in looped)) - looped:
    looped |= more
  return [
    (
      match[2],
      [
        tuple(int(n) for n in shape.split(',') if n)
        for shape in re.findall(r'\w\d+\[([\d,]*)\]', match[1])
      ],
      block in looped,
    )
    for block, lines in blocks.items()
    for line in lines
    if (match := _COLLECTIVE.search(line))
  ]
