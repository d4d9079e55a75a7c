"""Encoders by name, with a named feature at every stage.

The convolutional ones are those of Deep InfoMax. The folded ones among them cut
an image into overlapping crops, encode each crop alone and lay the results out
as a map, so that a location has seen nothing but its crop.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
Their code: https://github.com/rdevon/DIM
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.networks import layers
from dim_jax.networks.convolutional import (
  ConvEncoder,
  ConvLayer,
  ResidualLayer,
  bounded_log_variance,
)

_ALEXNET = (
  ConvLayer(96, 3, 1, 1, pool=True),
  ConvLayer(192, 3, 1, 1, pool=True),
  ConvLayer(384, 3, 1, 1),
  ConvLayer(384, 3, 1, 1),
  ConvLayer(192, 3, 1, 1, pool=True),
)


def basic28(**overrides: Any) -> ConvEncoder:
  """Returns the encoder of 28x28 images (MNIST); locals 7x7x128.

  Args:
    **overrides: fields of `ConvEncoder` to change, in every factory here.
  """
  return _encoder(
    overrides,
    title='basic28',
    image_size=28,
    convs=(ConvLayer(64, 5, 2, 2), ConvLayer(128, 5, 2, 2)),
    fcs=(1024,),
    local=1,
  )


def basic32(**overrides: Any) -> ConvEncoder:
  """Returns the encoder of 32x32 images (CIFAR); locals 8x8x128."""
  return _encoder(
    overrides,
    title='basic32',
    image_size=32,
    convs=_halving(64, 128, 256),
    fcs=(1024,),
    local=1,
  )


def basic64(**overrides: Any) -> ConvEncoder:
  """Returns the plain encoder of 64x64 images; locals 8x8x256."""
  return _encoder(
    overrides,
    title='basic64',
    image_size=64,
    convs=_halving(64, 128, 256, 512),
    fcs=(1024,),
    local=2,
  )


def alex64(**overrides: Any) -> ConvEncoder:
  """Returns the AlexNet of 64x64 images (STL-10, Tiny); locals 15x15x384."""
  return _encoder(
    overrides,
    title='alex64',
    image_size=64,
    convs=_ALEXNET,
    fcs=(4096, 4096),
    local=2,
  )


def small32(**overrides: Any) -> ConvEncoder:
  """Returns a small encoder of 32x32 images, for demonstrations on a CPU.

  Half the channels and a quarter of the hidden units of `basic32`; locals
  8x8x64. Not from the paper.
  """
  return _encoder(
    overrides,
    title='small32',
    image_size=32,
    convs=_halving(32, 64, 128),
    fcs=(256,),
    local=1,
  )


def foldalex64(**overrides: Any) -> ConvEncoder:
  """Returns `alex64` on 7x7 crops of 16 pixels; locals 7x7x192.

  What the paper compares with contrastive predictive coding on STL-10. The
  released code gives the layers before normalisation biases, which do nothing,
  and the convolution after the fold other initial weights.
  """
  return _encoder(
    overrides,
    title='foldalex64',
    image_size=64,
    crop=16,
    convs=(*_ALEXNET, ConvLayer(384, 3, 2, 0)),
    fcs=(4096,),
    local=4,
    dropout=0.1,
    init_std=0.02,
  )


def foldmultialex64(**overrides: Any) -> ConvEncoder:
  """Returns `foldalex64` with 25 globals instead of a code; locals 7x7x192.

  The feature 'globals', 5x5x192, holds one for each 3x3 locations: name it in
  `dim.Config.global_feature`. The field `code` is not used.
  """
  return _encoder(
    {**overrides, 'code': 0},
    title='foldmultialex64',
    image_size=64,
    crop=16,
    convs=(*_ALEXNET, ConvLayer(192, 3, 1, 0), ConvLayer(192, 1, 1, 0)),
    fcs=(),
    local=4,
  )


def resnet19_32(**overrides: Any) -> ConvEncoder:
  """Returns a ResNet of 2, 2 and 2 blocks for 32x32 images; locals 8x8x512."""
  return _encoder(
    overrides,
    title='resnet19_32',
    image_size=32,
    convs=_resnet(2, 2, 2),
    fcs=(1024,),
    local=3,
  )


def resnet34_32(**overrides: Any) -> ConvEncoder:
  """Returns a ResNet of 3, 6 and 3 blocks for 32x32 images; locals 8x8x512.

  It has 37 convolutions, and 3 more in shortcuts.
  """
  return _encoder(
    overrides,
    title='resnet34_32',
    image_size=32,
    convs=_resnet(3, 6, 3),
    fcs=(1024,),
    local=4,
  )


def foldresnet19_32(**overrides: Any) -> ConvEncoder:
  """Returns `resnet19_32` on 7x7 crops of 8 pixels; locals 7x7x1024."""
  return _encoder(
    overrides,
    title='foldresnet19_32',
    image_size=32,
    crop=8,
    convs=_resnet(2, 2, 2),
    fcs=(1024,),
    local=6,
  )


def foldresnet34_32(**overrides: Any) -> ConvEncoder:
  """Returns `resnet34_32` on 7x7 crops of 8 pixels; locals 7x7x1024.

  What the paper compares with contrastive predictive coding on CIFAR-10, as far
  as the released code tells: its last version leaves the two strided blocks
  out, so that a crop keeps 4x4 locations and the fold mixes images up. Here
  they are in, as in the version before.
  """
  return _encoder(
    overrides,
    title='foldresnet34_32',
    image_size=32,
    crop=8,
    convs=_resnet(3, 6, 3),
    fcs=(1024,),
    local=12,
  )


def foldmultiresnet34_32(**overrides: Any) -> ConvEncoder:
  """Returns `foldresnet34_32` with 25 globals, 5x5x1024, instead of a code.

  Built as `foldmultialex64` is; the released code has none for CIFAR.
  """
  return _encoder(
    {**overrides, 'code': 0},
    title='foldmultiresnet34_32',
    image_size=32,
    crop=8,
    convs=(
      *_resnet(3, 6, 3),
      ConvLayer(1024, 3, 1, 0),
      ConvLayer(1024, 1, 1, 0),
    ),
    fcs=(),
    local=12,
  )


class MLPEncoder(nn.Module):
  """Fully connected ReLU layers on the flattened image, of any size.

  Attributes:
    units: sizes of the hidden layers.
    dropout: fraction of hidden units dropped in training (a 'dropout' key).
    kernel_init: of the kernels; biases start at 0.
    dtype: compute dtype; parameters and 'fc' are float32.
  """

  units: Sequence[int] = (1024, 1024)
  dropout: float = 0.0
  kernel_init: Any = nn.initializers.glorot_uniform()
  dtype: Any = None

  @nn.compact
  def __call__(
    self, images: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the feature 'fc', the last hidden layer, shape [N, units].

    Args:
      images: shape [N, H, W, C].
      train: whether dropout acts.
    """
    x = images.reshape(images.shape[0], -1)
    for i, units in enumerate(self.units):
      dense = nn.Dense(
        units, kernel_init=self.kernel_init, dtype=self.dtype, name=f'fc_{i}'
      )
      x = nn.relu(dense(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return {'fc': x.astype(jnp.float32)}


class MLPCode(nn.Module):
  """An `MLPEncoder` and a linear code, for Deep InfoMax without a map.

  Attributes:
    units: sizes of the hidden layers.
    code: size of the code Y.
    stochastic: whether to also return the code's log-variance.
  """

  units: Sequence[int] = (256, 256)
  code: int = 16
  stochastic: bool = False

  @nn.compact
  def __call__(
    self, images: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Encodes images [N, H, W, C].

    Args:
      images: floats in [-1, 1].
      train: not used; nothing is normalised.

    Returns:
      Features by name: 'input' [N, H*W*C], the pixels, as what the code may
      be informative of; 'fc' [N, units]; 'y' [N, code]; and 'log_variance'
      [N, code] if the encoder is stochastic.
    """
    endpoints = MLPEncoder(self.units, name='mlp')(images, train=train)
    endpoints['input'] = images.reshape(images.shape[0], -1)
    endpoints['y'] = layers.Dense(self.code, name='y')(endpoints['fc'])
    if self.stochastic:
      raw = layers.Dense(self.code, name='log_variance')(endpoints['fc'])
      endpoints['log_variance'] = bounded_log_variance(raw)
    return endpoints


ENCODERS: dict[str, Callable[..., ConvEncoder]] = {
  'basic28': basic28,
  'basic32': basic32,
  'basic64': basic64,
  'alex64': alex64,
  'small32': small32,
  'foldalex64': foldalex64,
  'foldmultialex64': foldmultialex64,
  'resnet19_32': resnet19_32,
  'resnet34_32': resnet34_32,
  'foldresnet19_32': foldresnet19_32,
  'foldresnet34_32': foldresnet34_32,
  'foldmultiresnet34_32': foldmultiresnet34_32,
}


def make(name: str, **overrides: Any) -> ConvEncoder:
  """Returns a named encoder.

  Args:
    name: a key of `ENCODERS`.
    **overrides: fields of `ConvEncoder` to change, such as `norm`, one of
      `layers.NORMS`.

  Raises:
    ValueError: on an unknown name or field.
  """
  if name not in ENCODERS:
    accepted = ', '.join(ENCODERS)
    raise ValueError(f'unknown encoder {name!r}; accepted are {accepted}.')
  return ENCODERS[name](**overrides)


def _halving(*features: int) -> tuple[ConvLayer, ...]:
  """Returns convolutions of kernel 4 that halve the map each."""
  return tuple(ConvLayer(n, 4, 2, 1) for n in features)


def _resnet(*blocks: int) -> tuple[ConvLayer | ResidualLayer, ...]:
  """Returns a convolution and three stages of so many bottleneck blocks."""
  stages: list[ConvLayer | ResidualLayer] = [ConvLayer(64, 3, 2, 1)]
  for stage, count in enumerate(blocks):
    width = 64 * 2**stage
    stages.append(ResidualLayer(width, 2 if stage else 1))
    stages += [ResidualLayer(width)] * (count - 1)
  return tuple(stages)


def _encoder(overrides: dict[str, Any], **fields: Any) -> ConvEncoder:
  accepted = {f.name for f in dataclasses.fields(ConvEncoder)} - {'parent'}
  unknown = sorted(set(overrides) - accepted)
  if unknown:
    raise ValueError(
      f'{fields["title"]} has no field {unknown[0]!r}; accepted are '
      + ', '.join(sorted(accepted))
      + '.'
    )
  return ConvEncoder(**{**fields, **overrides})
