"""Features of a frozen encoder.

An encoder is a pure function `encode(variables, batch) -> {tap: features}`. Its
variables are an input that is neither differentiated, donated nor returned, so
nothing that happens here can change them.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import scale
from dim_jax.data import batches

Encode = Callable[[Any, dict[str, Any]], dict[str, jax.Array]]


def extract(
  encode: Encode,
  variables: Any,
  examples: np.ndarray,
  *,
  kind: str | None = None,
  taps: Sequence[str] | None = None,
  batch_size: int = 256,
  progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
  """Flattened features at all taps, from one compiled pass over the data.

  The last batch is padded to the size of the others and its padding cut off
  again: one compilation, and no example dropped.

  Args:
    encode: the encoder, `encode(variables, batch) -> {tap: [N, ...]}`.
    variables: what it needs; only read.
    examples: images, uint8 [n, H, W, C], or sound, int16 [n, T], or points,
      float32 [n, D].
    kind: what the encoder knows them by: 'image', 'audio' or 'point'; if None,
      the first where they have four axes, else the second.
    taps: which taps to keep; all of them if None.
    batch_size: examples in one dispatch.
    progress: called with the number of examples done after each batch.

  Returns:
    For each tap, float32 of shape [n, D], in the order of the examples.

  Raises:
    ValueError: there are no examples, they have another rank, or a tap is not
      one of the encoder's.
  """
  if examples.ndim not in (2, 4) or not len(examples):
    raise ValueError(
      f'examples must be images [n, H, W, C], sound [n, T] or points [n, D] '
      f'with n >= 1, got shape {examples.shape}.'
    )
  if batch_size < 1:
    raise ValueError(f'batch_size must be >= 1, got {batch_size}.')
  size = min(batch_size, len(examples))
  labels = np.full([size], -1, np.int32)
  name = kind or ('image' if examples.ndim == 4 else 'audio')

  @jax.jit
  def compiled(variables, part):
    found = encode(variables, {name: part, 'label': labels})
    wanted = list(found) if taps is None else list(taps)
    if unknown := [tap for tap in wanted if tap not in found]:
      raise ValueError(
        f'No tap {unknown[0]!r}: the encoder has {sorted(found)}.'
      )
    # Only what is returned is computed: an unwanted tap costs nothing.
    return {
      tap: found[tap].reshape(size, -1).astype(jnp.float32) for tap in wanted
    }

  features: dict[str, np.ndarray] = {}
  for rows, (part,) in batches.padded(size, examples):
    for tap, values in compiled(variables, part).items():
      if tap not in features:
        features[tap] = np.empty([len(examples), values.shape[1]], np.float32)
      features[tap][rows] = np.asarray(values)[: rows.stop - rows.start]
    if progress is not None:
      progress(rows.stop)
  return features


def raw(examples: np.ndarray) -> np.ndarray:
  """The examples themselves as features, the control row of every table.

  Args:
    examples: images, uint8 [n, H, W, C], or sound, int16 [n, T].

  Returns:
    float32 in [-1, 1], shape [n, H*W*C] or [n, T].
  """
  flat = np.asarray(examples).reshape(len(examples), -1)
  return scale.to_unit(flat).astype(np.float32, copy=False)


def fingerprint(variables: Any) -> str:
  """A hash of every bit of a pytree, to show that it did not change.

  Args:
    variables: any pytree of arrays.

  Returns:
    SHA-256 over the leaves' paths, shapes, dtypes and bytes, as 64 hex digits.
  """
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(
      leaf.dtype, jax.dtypes.prng_key
    ):
      leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    name = f'{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n'
    digest.update(name.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
