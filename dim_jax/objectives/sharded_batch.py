"""A batch that may be spread over the devices of a pmapped axis.

The loss of a batch is one number, however many devices hold its examples: what
compares examples gathers them, and what is drawn for an example does not depend
on the device that holds it. Where `axis_name` is None the batch is whole.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from dim_jax.checks import check_range

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


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
  """The rows of all devices, [N, ...] from this device's [n, ...]."""
  if axis_name is None:
    return x
  return jax.lax.all_gather(x, axis_name, tiled=True)


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
