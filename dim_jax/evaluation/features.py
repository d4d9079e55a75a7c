"""Features of a frozen encoder.

An encoder is a pure function `encode(variables, batch) -> {name: features}`.
Its variables are an input that is neither differentiated, donated nor returned,
so nothing that happens here can change them.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, scale
from dim_jax.data import batches

Encode = Callable[[Any, dict[str, Any]], dict[str, jax.Array]]


def extract(
  encode: Encode,
  variables: Any,
  examples: np.ndarray,
  *,
  kind: str | None = None,
  names: Sequence[str] | None = None,
  batch_size: int = 256,
  progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
  """Computes flattened features, in one compiled pass over the data.

  The last batch is padded to the size of the others and its padding cut off
  again: one compilation, and no example dropped.

  Args:
    encode: the encoder, `encode(variables, batch) -> {name: [N, ...]}`.
    variables: what it needs; only read.
    examples: images, uint8 [n, H, W, C], or sound, int16 [n, T], or points,
      float32 [n, D], or pairs of lines, int32 [n, 2, L].
    kind: what the encoder knows them by, such as 'image'; if None, by their
      axes: of four 'image', of three 'text', of two 'audio'.
    names: which features to keep; all of them if None.
    batch_size: examples in one dispatch.
    progress: called with the number of examples done after each batch.

  Returns:
    For each name, float32 of shape [n, D], in the order of the examples.

  Raises:
    ValueError: there are no examples, they have another rank or are not finite,
      or the encoder has no features of a name.
  """
  # Images without a channel have three axes too.
  is_text = examples.ndim == 3 and examples.dtype == np.int32
  if not (examples.ndim in (2, 4) or is_text) or not len(examples):
    raise ValueError(
      f'examples must be images [n, H, W, C], sound [n, T], points [n, D] or '
      f'pairs of lines [n, 2, L] with n >= 1, got shape {examples.shape}.'
    )
  if np.issubdtype(examples.dtype, np.floating):
    finite = np.isfinite(examples)
    if not finite.all():
      raise ValueError(
        f'{np.sum(~finite)} of {examples.size} values of the examples are NaN '
        'or infinite.'
      )
  kind = kind or {2: 'audio', 3: 'text', 4: 'image'}[examples.ndim]

  @jax.jit
  def compiled(variables, part):
    size = len(part)
    labels = np.full([size], -1, np.int32)
    outputs = encode(variables, {kind: part, 'label': labels})
    for name in names or ():
      checks.check_choice('A feature', name, outputs)
    # Only what is returned is computed: features left out cost nothing.
    return {
      name: outputs[name].reshape(size, -1).astype(jnp.float32)
      for name in (outputs if names is None else names)
    }

  return batches.map_padded(
    lambda _, part: compiled(variables, part),
    batch_size,
    examples,
    progress=progress,
  )


def raw(examples: np.ndarray) -> np.ndarray:
  """Takes the examples themselves as features, the control of every table.

  Args:
    examples: images, uint8 [n, H, W, C], or sound, int16 [n, T].

  Returns:
    float32 in [-1, 1], shape [n, H*W*C] or [n, T].
  """
  flat = np.asarray(examples).reshape(len(examples), -1)
  return scale.to_unit(flat).astype(np.float32, copy=False)


def fingerprint(variables: Any) -> str:
  """Hashes every bit of a pytree, to show that it did not change.

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
