"""Critics: networks that score pairs of local and global features.

Every critic is `critic(local, glob, *, train=False) -> scores`, with local
features [N, L, C] of N images (a map's L locations), M globals an image
[N, M, D], and scores [N*M, N, L] in float32: `scores[i * M + m, j, l]` compares
global m of image i with local l of image j. Pairs of one image (i == j) are the
positives. Critics are not losses: see `dim_jax.losses.bounds`.

Under `pmap` each device scores its own images, with `axis_name` for batch
statistics that are those of all devices; a loss of all pairs takes the two
halves of a critic, `embed` and `score`, see `losses.sharded_bounds`.

Of every network, `dtype` is the compute dtype; parameters, statistics, scores
and logits are float32.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.losses import large_batches
from dim_jax.networks import layers
from dim_jax.networks.convolutional import ConvLayer

Embedded = tuple[jax.Array, ...]


def noisy_identity() -> layers.Initializer:
  """Returns the initialiser of skip connections: a noisy copy of the input.

  A kernel [C, K] with K >= C is U(-0.01, 0.01) with exactly 1 on the diagonal,
  so that the first C units start as the input. A kernel with K < C cannot copy,
  and gets PyTorch's default.
  """

  def init(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding
    inputs, units = shape
    if units < inputs:
      return layers.torch_uniform()(key, shape, dtype)
    noise = jax.random.uniform(key, shape, dtype, -0.01, 0.01)
    return jnp.where(jnp.eye(inputs, units, dtype=bool), 1, noise)

  return init


class Projection(nn.Module):
  """The paper's embedding: a hidden layer plus a linear skip, then LayerNorm.

  Attributes:
    units: size K of the hidden layer and of the embedding.
  """

  units: int = 2048
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns [n, L, K] for features `x` [n, L, C]."""
    hidden = _hidden(self, x, train)
    y = layers.Dense(self.units, dtype=self.dtype, name='output')(hidden)
    skip = layers.Dense(
      self.units,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=noisy_identity(),
      name='skip',
    )(x)
    return layers.normalise(
      y + skip, 'layer', train=train, dtype=self.dtype, name='norm'
    )


class EmbeddingCritic(nn.Module):
  """A critic in two halves, for who cannot hold all scores.

  `embed`, called as the critic is, returns (anchors, local), trees of arrays
  [N*M, ...] and [N, ...]. `score`, which has no parameters and needs no
  `apply`, makes scores [A, n, L] of them, or of any of either; see
  `losses.large_batches`.

  Attributes:
    units: size of the embeddings, and of hidden layers.
  """

  units: int = 2048
  dtype: Any = jnp.float32
  axis_name: str | None = None

  def __call__(
    self, local: jax.Array, glob: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Returns scores [N*M, N, L] of local [N, L, C] and glob [N, M, D]."""
    return self.score(*self.embed(local, glob, train=train))


class ProjectionCritic(EmbeddingCritic):
  """The paper's encode-and-dot critic, as its released code has it.

  Both sides pass through a `Projection`; a score is the plain dot product, not
  scaled. Layer normalisation gives each embedding a norm near sqrt(units), so
  at 2048 units the first scores have a standard deviation of about 44 nats.
  Use it for parity with the paper; `FactoredCritic` is several times cheaper.
  The released code skips the global projection if D == units; here it is kept.

  References:
    https://github.com/rdevon/DIM, cortex_DIM/nn_modules/mi_networks.py
  """

  @nn.compact
  def embed(
    self, local: jax.Array, glob: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns anchors [N*M, K] and locals [N, L, K]."""
    _check(local, glob)
    embed = {
      side: Projection(self.units, self.dtype, self.axis_name, name=side)
      for side in ('local', 'global')
    }
    local = embed['local'](local, train=train)
    return _flatten(embed['global'](glob, train=train)), local

  @nn.nowrap
  def score(self, anchors: jax.Array, local: jax.Array) -> jax.Array:
    """Returns scores [A, N, L] of anchors [A, K] and locals [N, L, K]."""
    return large_batches.dot(anchors, local)


class FactoredCritic(EmbeddingCritic):
  """Encode-and-dot without the large product, by associativity.

  With h(l) = ReLU(BN(W1 l)) and g the `Projection` of the global, a score is

    <W2 h(l) + Ws l + b, g> / sqrt(units)
      = (h(l).(W2' g) + l.(Ws' g) + b.g) / sqrt(units),

  and the right-hand side is what runs: W2 multiplies N globals instead of N*L
  locals. The paper's critic normalises after the sum, which forbids this. Here
  the local side is normalised before W2, by the batch normalisation of the
  hidden layer, and the global side by the layer normalisation of its
  projection; the scale makes first scores of order 1.
  """

  @nn.compact
  def embed(
    self, local: jax.Array, glob: jax.Array, *, train: bool = False
  ) -> tuple[Embedded, Embedded]:
    """Returns anchors, three arrays [N*M, ...], and locals, two [N, L, ...]."""
    _check(local, glob)
    units, channels = self.units, local.shape[-1]
    local = local.astype(self.dtype)
    hidden = _hidden(self, local, train)
    glob = Projection(units, self.dtype, self.axis_name, name='global')(
      glob, train=train
    )
    output = self.param('output', layers.torch_uniform(), (units, units))
    skip = self.param('skip', noisy_identity(), (channels, units))
    bias = self.param('bias', layers.torch_bias(units), (units,))
    output, skip, bias = (
      weight.astype(self.dtype) for weight in (output, skip, bias)
    )
    anchors = (
      _flatten(layers.product(glob, output.T)),
      _flatten(layers.product(glob, skip.T)),
      layers.product(glob, bias[:, None]).reshape(-1),
    )
    return anchors, (hidden, local)

  @nn.nowrap
  def score(self, anchors: Embedded, embedded: Embedded) -> jax.Array:
    """Returns scores [A, N, L] of what `embed` returns."""
    from_hidden, from_local, offset = anchors
    hidden, local = embedded
    scores = large_batches.dot(from_hidden, hidden)
    scores += large_batches.dot(from_local, local)
    scores += offset.astype(jnp.float32)[:, None, None]
    return scores / math.sqrt(self.units)


class CosineCritic(EmbeddingCritic):
  """The cosine of two linear maps, times a learned factor.

  The factor is an inverse temperature, 1 / 0.07 at first, so that the first
  scores are of order 1, and contrastive training begins at once.

  References:
    Radford et al., Learning transferable visual models from natural language
    supervision, 2021, section 2.3: https://arxiv.org/abs/2103.00020
  """

  @nn.compact
  def embed(
    self, local: jax.Array, glob: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Returns anchors [N*M, K] and locals [N, L, K]."""
    del train  # It has no batch statistics.
    _check(local, glob)
    first = nn.initializers.constant(math.log(1 / 0.07))
    factor = jnp.exp(self.param('log_factor', first, ()))
    sides = []
    for name, x in (('local', local), ('global', glob)):
      x = layers.Dense(self.units, dtype=self.dtype, name=name)(x)
      x = x.astype(jnp.float32)
      square = jnp.square(x).sum(-1, keepdims=True)
      sides.append(x * jax.lax.rsqrt(jnp.maximum(square, 1e-12)))
    return _flatten(factor * sides[1]), sides[0]

  @nn.nowrap
  def score(self, anchors: jax.Array, local: jax.Array) -> jax.Array:
    """Returns scores [A, N, L] of anchors [A, K] and locals [N, L, K]."""
    return large_batches.dot(anchors, local)


class ConcatCritic(nn.Module):
  """The paper's concatenate-then-MLP critic, with its first layer split.

  A score is an MLP of the pair's concatenation [global; local]. The first layer
  is W [g; l] = Wg g + Wl l, so it is computed once a global and once a local,
  not once a pair; the later layers are once a pair, in memory N*M * N * L *
  units. With the locals 1x1 convolutions would see, this is the paper's
  concat-and-convolve critic; with a whole flattened map as one local (L = 1),
  it is the paper's global critic.

  Attributes:
    units: size of the hidden layers.
    depth: number of hidden layers, the paper's being 2.
    axis_name: for nothing, as it has no normalisation.
  """

  units: int = 512
  depth: int = 2
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    local: jax.Array,
    glob: jax.Array,
    *,
    train: bool = False,
    paired: bool = True,
  ) -> jax.Array:
    """Returns scores [N*M, N, L] of local [N, L, C] and glob [N, M, D].

    Not `paired`, the images of the globals may be others, and more or fewer.
    """
    del train
    if paired:
      _check(local, glob)
    if self.depth < 1:
      raise ValueError(
        f'ConcatCritic takes a depth of 1 or more hidden layers; got '
        f'{self.depth}.'
      )
    split = glob.shape[-1]
    inputs = split + local.shape[-1]
    # One kernel, global first: its initialisation sees the whole fan-in.
    kernel = self.param(
      'kernel', layers.torch_uniform(), (inputs, self.units)
    ).astype(self.dtype)
    bias = self.param('bias', layers.torch_bias(inputs), (self.units,))
    glob = layers.product(glob.astype(self.dtype), kernel[:split])
    local = layers.product(local.astype(self.dtype), kernel[split:])
    local = layers.add_bias(local, bias.astype(self.dtype))
    x = nn.relu(layers.add(_flatten(glob)[:, None, None, :], local[None]))
    for i in range(1, self.depth):
      x = nn.relu(layers.Dense(self.units, dtype=self.dtype, name=f'fc_{i}')(x))
    return _Score(self.dtype, name='score')(x)


class CoordinateHead(nn.Module):
  """Says which row and column of a map each of its features is from.

  An MLP of the concatenation [code; local] or, given a source location,
  [code; local; source], then it is the offset from there. Its hidden layers
  have batch normalisation; the first is split as `ConcatCritic`'s.

  Attributes:
    units: size of the two hidden layers, from memory 512 in the paper.
  """

  units: int = 512
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    maps: jax.Array,
    glob: jax.Array,
    source: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns logits of rows and columns, of each location given each global.

    Args:
      maps: local features, [n, H, W, C].
      glob: the globals of the same images, [n, M, D].
      source: int [n], a location of each image in its flattened map; None for
        absolute coordinates.
      train: whether normalisation uses the batch's statistics.

    Returns:
      Logits [n, M, H*W, H] and [n, M, H*W, W] or, of offsets -(H-1)..H-1 and
      -(W-1)..W-1, [n, M, H*W, 2H-1] and [n, M, H*W, 2W-1].
    """
    rows, columns = maps.shape[1:3]
    local = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    parts = [glob[:, :, None], local[:, None]]
    if source is not None:
      rows, columns = 2 * rows - 1, 2 * columns - 1
      features = jnp.take_along_axis(local, source[:, None, None], axis=1)
      parts.append(features[:, None])
    sizes = [part.shape[-1] for part in parts]
    kernel = self.param(
      'kernel', layers.torch_uniform(), (sum(sizes), self.units)
    ).astype(self.dtype)
    ends = list(itertools.accumulate(sizes))
    x = layers.add(
      *(
        layers.product(part.astype(self.dtype), kernel[end - size : end])
        for part, size, end in zip(parts, sizes, ends, strict=True)
      )
    )
    x = _activate(self, x, train, 'norm_0')
    x = layers.Dense(self.units, use_bias=False, dtype=self.dtype, name='fc_1')(
      x
    )
    x = _activate(self, x, train, 'norm_1').astype(jnp.float32)
    return (
      layers.Dense(rows, name='row')(x),
      layers.Dense(columns, name='column')(x),
    )


class Adversary(nn.Module):
  """The prior's critic: an MLP without normalisation that scores one vector.

  Attributes:
    units: sizes of the hidden layers.
    spectral_norm: divide each weight by its spectral norm, which makes the
      slope about 1 at most everywhere (exactly so once the power iteration has
      converged). One step of power iteration a call, from the vectors in the
      collection 'batch_stats'.

  References:
    Miyato et al., Spectral Normalization for Generative Adversarial Networks,
    2018. https://arxiv.org/abs/1802.05957
  """

  units: tuple[int, ...] = (1000, 200)
  spectral_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns scores [N] of vectors `x` [N, D].

    To train is to keep the power iteration's step: not where the adversary
    scores for another parameter group.
    """
    if x.ndim != 2:
      raise ValueError(f'Adversary takes vectors [N, D]; got shape {x.shape}.')

    def apply(layer: nn.Module, x: jax.Array) -> jax.Array:
      if not self.spectral_norm:
        return layer(x)
      return nn.SpectralNorm(layer)(x, update_stats=train)

    for i, units in enumerate(self.units):
      dense = layers.Dense(units, dtype=self.dtype, name=f'fc_{i}')
      x = nn.relu(apply(dense, x))
    return apply(_Score(self.dtype, name='score'), x)


class PairAdversary(nn.Module):
  """Scores pairs of an image and a code: convolutions, then an `Adversary`.

  The code joins the flattened last map. A score is of its own pair alone.

  Attributes:
    convs: the convolutions, first to last, of an encoder's shapes; each is
      followed by a leaky ReLU of slope 0.2.
    units: sizes of the hidden layers that see both.
    norm: after each convolution, 'layer' or 'group'; None for biases alone.
    spectral_norm: as of `Adversary`, of all weights; without a norm, which
      would undo it.
    lowering: of the convolutions, see `layers.Conv`.
  """

  convs: tuple[ConvLayer, ...]
  units: tuple[int, ...] = (1024,)
  norm: str | None = None
  spectral_norm: bool = False
  dtype: Any = jnp.float32
  lowering: str | None = None

  @nn.compact
  def __call__(
    self, images: jax.Array, codes: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Returns scores [N] of images [N, H, W, C], each with its code [N, D].

    To train is to keep the power iteration's step, see `Adversary`.
    """
    x = images.astype(self.dtype)
    for i, conv in enumerate(self.convs):
      layer: nn.Module = layers.Conv(
        conv.features,
        kernel_size=conv.kernel_size,
        strides=conv.strides,
        padding=conv.padding,
        use_bias=self.norm is None,
        dtype=self.dtype,
        lowering=self.lowering,
        name=f'conv_{i}',
      )
      if self.spectral_norm:
        x = nn.SpectralNorm(layer)(x, update_stats=train)
      else:
        x = layer(x)
      if self.norm is not None:
        x = layers.normalise(
          x, self.norm, train=train, dtype=self.dtype, name=f'conv_{i}_norm'
        )
      x = nn.leaky_relu(x, 0.2)
      if conv.pool:
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
    x = x.reshape(x.shape[0], -1)
    pairs = jnp.concatenate([x, codes.astype(self.dtype)], axis=1)
    return Adversary(self.units, self.spectral_norm, self.dtype, name='pairs')(
      pairs, train=train
    )


CRITICS: dict[str, Callable[..., nn.Module]] = {
  'projection': ProjectionCritic,
  'factored': FactoredCritic,
  'cosine': CosineCritic,
  'concat': ConcatCritic,
}


class _Score(nn.Module):
  """A linear map to one number, accumulated in float32."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    kernel = self.param('kernel', layers.torch_uniform(), (size, 1))
    bias = self.param('bias', layers.torch_bias(size), (1,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    scores = layers.product(x, kernel, jnp.float32)[..., 0]
    return scores + bias.reshape((1,) * scores.ndim)


def _hidden(module: Any, x: jax.Array, train: bool) -> jax.Array:
  """Returns ReLU(BN(W x)), [n, L, units], within a module's compact call."""
  x = layers.Dense(
    module.units, use_bias=False, dtype=module.dtype, name='hidden'
  )(x)
  return _activate(module, x, train, 'hidden_norm')


def _activate(module: Any, x: jax.Array, train: bool, name: str) -> jax.Array:
  """Returns ReLU(BN(x)), within a module's compact call."""
  x = layers.normalise(
    x,
    train=train,
    dtype=module.dtype,
    axis_name=module.axis_name,
    name=name,
  )
  return nn.relu(x)


def _flatten(glob: jax.Array) -> jax.Array:
  """Returns globals [N, M, K] as anchors [N*M, K]."""
  return glob.reshape(-1, glob.shape[-1])


def _check(local: jax.Array, glob: jax.Array) -> None:
  for name, array, axes in (
    ('local', local, '[n, L, C]: images, locations, channels'),
    ('global', glob, '[n, M, D]: images, globals an image, channels'),
  ):
    if array.ndim != 3:
      raise ValueError(
        f'{name} features must be {axes}; got shape {array.shape}. Reshape a '
        'map [n, H, W, C] to [n, H * W, C], and a vector [n, D] to [n, 1, D].'
      )
  if local.shape[0] != glob.shape[0]:
    raise ValueError(
      'local and global features must come from the same images; got '
      f'{local.shape[0]} and {glob.shape[0]} (shapes {local.shape} and '
      f'{glob.shape}).'
    )
