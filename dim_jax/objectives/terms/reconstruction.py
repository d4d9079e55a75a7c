"""The term that has images decoded from their codes."""

from typing import Any

import jax
import jax.numpy as jnp

from dim_jax import random
from dim_jax.losses import autoencoding
from dim_jax.networks import decoders
from dim_jax.objective import Metrics, PyTree
from dim_jax.objectives.terms import term
from dim_jax.objectives.terms.term import Inputs, Term

CODE = 'y'


def make(
  *,
  std: float,
  code: int,
  channels: int | None,
  norm: str,
  dtype: Any,
  axis_name: str | None,
) -> Term:
  """Makes the term of the group 'decoder', -ln p(x|z) of a Gaussian.

  Args:
    std: of pixels in [-1, 1] around their reconstruction.
    code: K, the size of the codes.
    channels: of the decoder's first map; None for those of the encoder's last
      one, 'conv'.
    norm: of the decoder, one of `layers.NORMS`.
    dtype: compute dtype of the decoder.
    axis_name: the pmapped axis.
  """

  def average(values: jax.Array) -> jax.Array:
    # Over the images of all devices.
    value = jnp.mean(values)
    return value if axis_name is None else jax.lax.pmean(value, axis_name)

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    params, state = init_decoder(
      rng,
      inputs,
      code=code,
      channels=channels,
      field='decoder_channels',
      norm=norm,
      dtype=dtype,
    )
    return {'decoder': params}, {'decoder': state}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    decoder = decoders.conv_decoder_of(
      params['decoder'], norm=norm, dtype=dtype, axis_name=axis_name
    )
    state = model_state['decoder']
    reconstructions, state = decoder.apply(
      {'params': params['decoder'], **state},
      inputs.features[CODE],
      train=True,
      mutable=list(state),
    )
    distortion = average(
      autoencoding.gaussian_distortion(inputs.images, reconstructions, std)
    )
    error = average(jnp.square(inputs.images - reconstructions))
    metrics = {'decoder/distortion': distortion, 'decoder/squared_error': error}
    return distortion, metrics, {'decoder': state}

  return Term(init, loss)


def init_decoder(
  rng: jax.Array,
  inputs: Inputs,
  *,
  code: int,
  channels: int | None,
  field: str,
  norm: str,
  dtype: Any,
) -> tuple[PyTree, PyTree]:
  """Draws the parameters of a decoder of codes to the images of a batch.

  Args:
    rng: the objective's key.
    inputs: a batch.
    code: K, the size of the codes.
    channels: of the first map; None for those of the feature 'conv'.
    field: of the objective's config, which gave the channels.
    norm: one of `layers.NORMS`.
    dtype: compute dtype.

  Returns:
    Parameters and state of a `decoders.ConvDecoder`.

  Raises:
    ValueError: the encoder has no vector of that size as its code, the channels
      are not known, or no decoder makes images of this size.
  """
  _check_code(inputs.features, code)
  if channels is None:
    if 'conv' not in inputs.features:
      raise ValueError(
        f"objective.{field} is None, for those of the feature 'conv', but the "
        f'encoder returns {sorted(inputs.features)}: set it, to 128 for '
        'example.'
      )
    channels = inputs.features['conv'].shape[-1]
  decoder = decoders.ConvDecoder(inputs.images.shape[1:], channels, norm, dtype)
  rng = random.branch(rng, random.OfParameters.DECODER)
  return term.split(decoder.init(rng, inputs.features[CODE], train=False))


def decode(
  variables: PyTree, codes: jax.Array, *, norm: str, dtype: Any
) -> jax.Array:
  """Decodes codes [n, K] with running statistics, to images [n, H, W, C].

  Args:
    variables: (params, model_state) of the objective.
    codes: as `encode` returns them.
    norm: of the decoder.
    dtype: its compute dtype.
  """
  params, model_state = variables
  decoder = decoders.conv_decoder_of(params['decoder'], norm=norm, dtype=dtype)
  return decoder.apply(
    {'params': params['decoder'], **model_state['decoder']}, codes, train=False
  )


def _check_code(features: dict[str, jax.Array], code: int) -> None:
  """Raises ValueError where there is no vector to decode."""
  y = features.get(CODE)
  if y is None or y.ndim != 2:
    shapes = {name: x.shape[1:] for name, x in features.items()}
    raise ValueError(
      "images are decoded of a vector, the feature 'y' [N, K], but the "
      f'encoder returns features of shapes {shapes}: set objective.encoder to '
      "one with a code, such as 'basic32'."
    )
  if y.shape[1] != code:
    raise ValueError(
      f"the encoder's code 'y' has {y.shape[1]} dimensions, but objective.code "
      f'is {code}: set objective.code={y.shape[1]}.'
    )
