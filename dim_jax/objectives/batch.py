"""A batch that may be spread over the devices of a pmapped axis.

The loss of a batch is one number, however many devices hold its examples: what
compares examples gathers them, and what is drawn for an example does not depend
on the device that holds it. Where `axis_name` is None the batch is whole.
"""

from collections.abc import Callable

import jax

Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


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
