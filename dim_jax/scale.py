"""What stored examples mean: uint8 and int16 as floats in [-1, 1], and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def to_unit(x: Any) -> Any:
  """Maps stored pixels and samples to [-1, 1]; floats pass as they are.

  Computed in float32, as bfloat16 would round twice.

  Args:
    x: uint8 pixels in 0..255, int16 samples of which 2**15 is full scale, or
      floats; an array of NumPy or JAX, of any shape.

  Returns:
    float32 of the same shape and kind: x / 127.5 - 1 of uint8 and x / 2**15 of
    int16; or `x` itself, where it is of floats.
  """
  if x.dtype == np.uint8:
    return x.astype(np.float32) / 127.5 - 1
  if x.dtype == np.int16:
    return x.astype(np.float32) / 2**15
  return x


def to_pixels(x: jax.Array) -> jax.Array:
  """Maps images in [-1, 1] to uint8; what lies beyond is clipped.

  Args:
    x: floats of any shape.

  Returns:
    uint8 of the same shape, the nearest to (x + 1) * 127.5.
  """
  return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
