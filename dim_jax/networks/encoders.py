"""Encoders by name, with a named feature at every stage.

The convolutional ones are those of Deep InfoMax, see `convolutional.py`. The
folded ones among them cut an image into overlapping crops, encode each crop
alone and lay the results out as a map, so that a location has seen nothing but
its crop.
"""

import dataclasses
from collections.abc import Sequence
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


_ALEXNET = (
  ConvLayer(96, 3, 1, 1, pool=True),
  ConvLayer(192, 3, 1, 1, pool=True),
  ConvLayer(384, 3, 1, 1),
  ConvLayer(384, 3, 1, 1),
  ConvLayer(192, 3, 1, 1, pool=True),
)

ENCODERS: dict[str, dict[str, Any]] = {
  # Of 28x28 images (MNIST); locals 7x7x128.
  'basic28': {
    'image_size': 28,
    'convs': (ConvLayer(64, 5, 2, 2), ConvLayer(128, 5, 2, 2)),
    'fcs': (1024,),
    'local': 1,
  },
  # Of 32x32 images (CIFAR); locals 8x8x128.
  'basic32': {
    'image_size': 32,
    'convs': _halving(64, 128, 256),
    'fcs': (1024,),
    'local': 1,
  },
  # Locals 8x8x256.
  'basic64': {
    'image_size': 64,
    'convs': _halving(64, 128, 256, 512),
    'fcs': (1024,),
    'local': 2,
  },
  # The AlexNet of 64x64 images (STL-10, Tiny); locals 15x15x384.
  'alex64': {
    'image_size': 64,
    'convs': _ALEXNET,
    'fcs': (4096, 4096),
    'local': 2,
  },
  # Not from the paper, for demonstrations on a CPU: half the channels and a
  # quarter of the hidden units of basic32; locals 8x8x64.
  'small32': {
    'image_size': 32,
    'convs': _halving(32, 64, 128),
    'fcs': (256,),
    'local': 1,
  },
  # small32 on 7x7 crops of 8 pixels; locals 7x7x128.
  'foldsmall32': {
    'image_size': 32,
    'crop': 8,
    'convs': _halving(32, 64, 128),
    'fcs': (256,),
    'local': 2,
  },
  # alex64 on 7x7 crops of 16 pixels; locals 7x7x192. What the paper compares
  # with contrastive predictive coding on STL-10. The released code gives the
  # layers before normalisation biases, which do nothing, and the convolution
  # after the fold other initial weights.
  'foldalex64': {
    'image_size': 64,
    'crop': 16,
    'convs': (*_ALEXNET, ConvLayer(384, 3, 2, 0)),
    'fcs': (4096,),
    'local': 4,
    'dropout': 0.1,
    'init_std': 0.02,
  },
  # foldalex64 with 25 globals, 5x5x192, one for each 3x3 locations, instead of
  # a code: name the feature 'globals' in `dim.Config.global_feature`.
  'foldmultialex64': {
    'image_size': 64,
    'crop': 16,
    'convs': (*_ALEXNET, ConvLayer(192, 3, 1, 0), ConvLayer(192, 1, 1, 0)),
    'fcs': (),
    'local': 4,
    'code': 0,
  },
  # Blocks of 2, 2 and 2; locals 8x8x512.
  'resnet19_32': {
    'image_size': 32,
    'convs': _resnet(2, 2, 2),
    'fcs': (1024,),
    'local': 3,
  },
  # 37 convolutions, and 3 more in shortcuts; locals 8x8x512.
  'resnet34_32': {
    'image_size': 32,
    'convs': _resnet(3, 6, 3),
    'fcs': (1024,),
    'local': 4,
  },
  # resnet19_32 on 7x7 crops of 8 pixels; locals 7x7x1024.
  'foldresnet19_32': {
    'image_size': 32,
    'crop': 8,
    'convs': _resnet(2, 2, 2),
    'fcs': (1024,),
    'local': 6,
  },
  # resnet34_32 on 7x7 crops of 8 pixels; locals 7x7x1024. What the paper
  # compares with contrastive predictive coding on CIFAR-10, as far as the
  # released code tells: its last version leaves the two strided blocks out, so
  # that a crop keeps 4x4 locations and the fold mixes images up. Here they are
  # in, as in the version before.
  'foldresnet34_32': {
    'image_size': 32,
    'crop': 8,
    'convs': _resnet(3, 6, 3),
    'fcs': (1024,),
    'local': 12,
  },
  # foldresnet34_32 with 25 globals, 5x5x1024, instead of a code, built as
  # foldmultialex64 is; the released code has none for CIFAR.
  'foldmultiresnet34_32': {
    'image_size': 32,
    'crop': 8,
    'convs': (
      *_resnet(3, 6, 3),
      ConvLayer(1024, 3, 1, 0),
      ConvLayer(1024, 1, 1, 0),
    ),
    'fcs': (),
    'local': 12,
    'code': 0,
  },
}
"""The fields of each `ConvEncoder` by name, see `make`."""


def make(name: str, /, **overrides: Any) -> ConvEncoder:
  """Returns a named encoder.

  Args:
    name: a key of `ENCODERS`.
    **overrides: fields of `ConvEncoder` to change, such as `norm`, one of
      `layers.NORMS`. An encoder with globals has no code, whatever `code` is.

  Raises:
    ValueError: on an unknown name or field.
  """
  if name not in ENCODERS:
    accepted = ', '.join(ENCODERS)
    raise ValueError(f'unknown encoder {name!r}; accepted are {accepted}.')
  fields = {f.name for f in dataclasses.fields(ConvEncoder)} - {'parent'}
  if unknown := sorted(set(overrides) - fields):
    raise ValueError(
      f'{name} has no field {unknown[0]!r}; accepted are '
      f'{", ".join(sorted(fields))}.'
    )
  if 'code' in ENCODERS[name]:  # It is 0: the globals stand in its place.
    overrides.pop('code', None)
  return ConvEncoder(**{'title': name, **ENCODERS[name], **overrides})


def of_crops(name: str, /, **overrides: Any) -> ConvEncoder:
  """Returns the layers of a folded encoder that see a crop, of single crops.

  Its 'local' of the crops [N * rows * cols, crop, crop, C] is that of the named
  encoder with the same parameters, before they are laid out as a map.

  Args:
    name: a key of `ENCODERS` with a `crop`.
    **overrides: as of `make`.

  Raises:
    ValueError: on another name.
  """
  folded = {k: fields for k, fields in ENCODERS.items() if 'crop' in fields}
  if name not in folded:
    raise ValueError(
      f'{name!r} is no encoder of crops; accepted are {", ".join(folded)}.'
    )
  fields = folded[name]
  return make(
    name,
    image_size=fields['crop'],
    crop=None,
    convs=fields['convs'][: fields['local'] + 1],
    fcs=(),
    code=0,
    **overrides,
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
    """Returns the last hidden layer 'fc' [N, units] of images [N, H, W, C]."""
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
    """Encodes images [N, H, W, C], alike in training.

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
