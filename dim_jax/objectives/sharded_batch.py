"""A batch that may be spread over the devices of a mesh or a pmapped axis.

The loss of a batch is one number, however many devices hold its examples: what
compares examples gathers them, and what is drawn for an example does not depend
on the device that holds it. Where `axis_name` is None the batch is whole. Under
jit it is so too, but a mesh may be in context, over which XLA spreads it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from dim_jax.checks import check_range
from dim_jax.losses import sharded_bounds

Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


def images(batch: Mapping[str, jax.Array]) -> jax.Array:
  """The batch's images.

  Raises:
    ValueError: it has none.
  """
  if 'image' not in batch:
    raise ValueError(
      "this objective takes batches of 'image' [N, H, W, C], got "
      f'{sorted(batch)}: choose images as data, or another objective.'
    )
  return batch['image']


def gather(x: Any, axis_name: str | None) -> Any:
  """The rows of all devices, a tree of [N, ...] from this device's [n, ...]."""
  if axis_name is None:
    return x
  return jax.lax.all_gather(x, axis_name, tiled=True)


def count(rows: int, axis_name: str | None) -> int:
  """The examples of the batch, of which this device has `rows`."""
  return rows if axis_name is None else rows * jax.lax.axis_size(axis_name)


def on_each_device(
  value_fn: Callable[..., Any], axis_name: str | None, *, split: bool = False
) -> Callable[[Any, Any], Any]:
  """Maps a function over the devices that hold the batch.

  Args:
    value_fn: `(axis_name, shared, rows) -> values`; where the batch is on one
      device, axis_name is None.
    axis_name: the pmapped axis. Without one, the axis is that of the mesh in
      context, if it has several devices.
    split: whether values are arrays [N, ...], of which each device has its own;
      if not they are the same on all devices.

  Returns:
    `(shared, rows) -> values`: `shared` is a tree that all devices have, and
    `rows` a tree of arrays [N, ...], of which each device gets its own.
  """
  devices = devices_of_mesh()
  if axis_name is not None or devices == 1:
    return functools.partial(value_fn, axis_name)
  (axis_name,) = jax.sharding.get_abstract_mesh().axis_names
  own = PartitionSpec(axis_name)
  return jax.shard_map(
    functools.partial(value_fn, axis_name),
    in_specs=(PartitionSpec(), own),
    out_specs=own if split else PartitionSpec(),
    check_vma=False,  # Groups of an axis are not implemented with it.
  )


def devices_of_mesh() -> int:
  """The devices of the mesh in context, over which jit spreads a batch.

  Within `shard_map`, as of a grid of runs, each device has a whole batch.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return max(1, mesh.size) if not mesh.manual_axes else 1


class _Groups(NamedTuple):
  """The groups of examples that a device works on.

  Attributes:
    rows: of each, a tree of arrays [k, size, ...].
    numbers: which they are, int32 [k].
    start: of this device's rows in its group, where several devices share one.
  """

  rows: Any
  numbers: jax.Array
  start: Any

  @classmethod
  def of(cls, rows: Any, size: int, axis_name: str | None) -> '_Groups':
    """Those of this device's rows, or the one that it shares with others."""
    images = jax.tree.leaves(rows)[0].shape[0]
    devices = count(1, axis_name)
    span = sharded_bounds.devices_of_group(size, images, devices)
    place: Any = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    if span > 1:
      groups = sharded_bounds.group_indices(devices, span)
      rows = jax.lax.all_gather(
        rows, axis_name, tiled=True, axis_index_groups=groups
      )
    held = max(1, images // size)
    numbers = place // span * held + jnp.arange(held)
    rows = sharded_bounds.split_groups(rows, held)
    return cls(rows, numbers, place % span * images)


def mean_of_groups(
  value_fn: Callable[[Any, Any, jax.Array], Any],
  shared: Any,
  rows: Any,
  rng: jax.Array,
  *,
  size: int,
  axis_name: str | None,
) -> Any:
  """Averages a function of examples over groups of them, one after another.

  A device computes the groups that it holds, without asking others for
  anything. Of a group that several devices hold, each computes all.

  Args:
    value_fn: `(shared, rows, rng) -> scalars`, of the rows of a group.
    shared: a tree that all devices have, such as weights.
    rows: a tree of arrays [N, ...] or, under pmap, [n, ...].
    rng: group i draws from `fold_in(rng, i)`.
    size: examples of a group.
    axis_name: the pmapped axis.

  Raises:
    ValueError: see `sharded_bounds.devices_of_group`.
  """

  def of_device(axis_name: str | None, arguments: Any, rows: Any) -> Any:
    shared, rng = arguments
    groups = _Groups.of(rows, size, axis_name)
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, groups.numbers)
    values = jax.vmap(functools.partial(value_fn, shared))(groups.rows, rngs)
    values = jax.tree.map(lambda x: jnp.mean(x, axis=0), values)
    return values if axis_name is None else jax.lax.pmean(values, axis_name)

  return on_each_device(of_device, axis_name)((shared, rng), rows)


def rows_of_groups(
  row_fn: Callable[[Any, Any], jax.Array],
  shared: Any,
  rows: Any,
  *,
  size: int,
  axis_name: str | None,
) -> jax.Array:
  """Maps a function of examples over groups of them, one after another.

  Args:
    row_fn: `(shared, rows) -> array [size, ...]`, of the rows of a group.
    shared: a tree that all devices have, such as weights.
    rows: a tree of arrays [N, ...] or, under pmap, [n, ...].
    size: examples of a group.
    axis_name: the pmapped axis.

  Returns:
    Shape [N, ...] or, under pmap, [n, ...].

  Raises:
    ValueError: see `sharded_bounds.devices_of_group`.
  """

  def of_device(axis_name: str | None, shared: Any, rows: Any) -> jax.Array:
    images = jax.tree.leaves(rows)[0].shape[0]
    groups = _Groups.of(rows, size, axis_name)
    values = jax.vmap(functools.partial(row_fn, shared))(groups.rows)
    values = values.reshape(-1, *values.shape[2:])
    return jax.lax.dynamic_slice_in_dim(values, groups.start, images)

  return on_each_device(of_device, axis_name, split=True)(shared, rows)


def total(x: jax.Array, axis_name: str | None) -> jax.Array:
  """The sum over all examples on all devices, a scalar."""
  x = x.sum()
  return x if axis_name is None else jax.lax.psum(x, axis_name)


def per_image(
  rng: jax.Array, shape: tuple[int, ...], axis_name: str | None, draw: Draw
) -> jax.Array:
  """Draws for the global batch, of which a device keeps its own images'.

  Args:
    rng: the same key on every device.
    shape: of this device's part, images first.
    axis_name: the pmapped axis.
    draw: `(rng, shape) -> array`.

  Returns:
    An array of `shape`.
  """
  if axis_name is None:
    return draw(rng, shape)
  devices = jax.lax.axis_size(axis_name)
  everything = draw(rng, (shape[0] * devices, *shape[1:]))
  start = jax.lax.axis_index(axis_name) * shape[0]
  return jax.lax.dynamic_slice_in_dim(everything, start, shape[0])


def cross_entropy(
  logits: jax.Array, labels: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes cross-entropy and accuracy over all examples with a label.

  Args:
    logits: of this device's examples, [n, C].
    labels: theirs, int32 [n]; those of -1 do not count, whatever their logits.
    axis_name: the pmapped axis.

  Returns:
    The cross-entropy in nats and the accuracy, scalars, 0 without a label; and
    1 if there is a label, else 0.
  """
  labels = gather(labels, axis_name)
  known = labels >= 0
  count = jnp.maximum(known.sum(), 1)
  # Before the loss: behind it, a gradient of infinity times 0 would be NaN.
  logits = jnp.where(known[:, None], gather(logits, axis_name), 0)
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, jnp.maximum(labels, 0)
  )
  hits = (logits.argmax(-1) == labels) & known
  total = jnp.where(known, losses, 0).sum()
  return total / count, hits.sum() / count, known.any().astype(jnp.float32)


def classify(
  layer: Mapping[str, jax.Array],
  features: jax.Array,
  labels: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
  """Computes cross-entropy and accuracy of a linear layer.

  Args:
    layer: 'kernel', [D, C], and 'bias', [C].
    features: of this device's examples, [n, D].
    labels: theirs, int32 [n]; those of -1 do not count.
    axis_name: the pmapped axis.

  Returns:
    The cross-entropy in nats and the accuracy, scalars; 0 without a label.
  """
  logits = features @ layer['kernel'] + layer['bias'][None]
  return cross_entropy(logits, labels, axis_name)[:2]


def check_units(name: str, units: tuple[int, ...], least: int = 0) -> None:
  """Checks the sizes of hidden layers.

  Args:
    name: of the field.
    units: what it holds.
    least: how many there must be.

  Raises:
    ValueError: one is no whole number >= 1, or there are too few.
  """
  if len(units) < least:
    raise ValueError(f'{name} must hold at least {least} size, got {units!r}.')
  for i, size in enumerate(units):
    check_range(f'{name}[{i}]', size, 'int [1, inf)')
