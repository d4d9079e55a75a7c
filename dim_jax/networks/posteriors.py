"""The stochastic code of a bottleneck, as a layer for any network.

`Bottleneck` maps features to a Gaussian `Posterior`, from which codes are drawn
and whose rate enters the loss:

    class Classifier(nn.Module):
      @nn.compact
      def __call__(self, x, rng):
        posterior = Bottleneck(32)(MyBackbone()(x))
        z = posterior.sample(rng)
        return nn.Dense(10)(z), posterior.rate()

    logits, rate = model.apply(variables, images, rng)
    loss = vib_loss(logits, labels, rate, beta=1e-3)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax.losses import bottleneck as losses

COVARIANCES = ('diagonal', 'full')
SCALES = ('softplus', 'log_variance', 'unit')


class Posterior(NamedTuple):
  """Gaussian codes of N examples, diagonal or with full covariance.

  Attributes:
    mean: shape [N, K].
    scale: standard deviations [N, K], or lower Cholesky factors [N, K, K].
    log_scale: ln of the standard deviations, or of the factors' diagonals,
      shape [N, K].
  """

  mean: jax.Array
  scale: jax.Array
  log_scale: jax.Array

  def place(self, noise: jax.Array) -> jax.Array:
    """Returns codes of standard normal noise [S, N, K], of the same shape."""
    if self.scale.ndim == 2:
      return self.mean[None] + self.scale[None] * noise
    return self.mean[None] + jnp.einsum('nij,snj->sni', self.scale, noise)

  def sample(self, rng: jax.Array, samples: int = 1) -> jax.Array:
    """Draws S = `samples` independent codes, [S, N, K]; ValueError if S < 1."""
    if samples < 1:
      raise ValueError(f'samples must be >= 1, got {samples}.')
    shape = (samples, *self.mean.shape)
    return self.place(jax.random.normal(rng, shape, self.mean.dtype))

  def rate(self) -> jax.Array:
    """Computes the KL from N(0, I) in nats, shape [N]."""
    if self.scale.ndim == 2:
      return losses.rate_diagonal(self.mean, self.scale, self.log_scale)
    return losses.rate_cholesky(self.mean, self.scale, self.log_scale)

  def log_prob(self, noise: jax.Array) -> jax.Array:
    """Computes ln p(z|x) at z = place(noise), in nats, shape [S, N]."""
    zeros = jnp.zeros_like(noise)
    return losses.log_normal(noise, zeros, zeros) - self.log_scale.sum(1)[None]


class Bottleneck(nn.Module):
  """A linear head that gives a Gaussian posterior.

  The full covariance is the paper's: K x K outputs, of which the upper
  triangle is dropped and the part below the diagonal scaled by 0.01.

  Attributes:
    size: K, dimensions of the code.
    covariance: 'diagonal' or 'full'.
    scale: 'softplus', sigma = softplus(rho + shift), the paper's, which starts
      almost deterministic; 'log_variance', which starts at sigma = 1; or
      'unit', sigma = 1 for good. Only 'softplus' with a full covariance.
    shift: of the softplus.
    kernel_init: of the one kernel of means and scales.
  """

  size: int
  covariance: str = 'diagonal'
  scale: str = 'softplus'
  shift: float = -5.0
  kernel_init: Any = nn.initializers.glorot_uniform()

  @nn.compact
  def __call__(self, x: jax.Array) -> Posterior:
    """Returns the posterior, float32, for features `x` [N, D].

    Raises:
      ValueError: a field cannot be used, or the features have another rank.
    """
    self._check(x)
    k = self.size
    full = self.covariance == 'full'
    outputs = k + k * k if full else k if self.scale == 'unit' else 2 * k
    head = nn.Dense(outputs, kernel_init=self.kernel_init, name='head')
    y = head(x.astype(jnp.float32))
    mean, rho = y[:, :k], y[:, k:]
    if self.scale == 'unit':
      return Posterior(mean, jnp.ones_like(mean), jnp.zeros_like(mean))
    if not full:
      if self.scale == 'softplus':
        return Posterior(mean, *losses.softplus_scale(rho, self.shift))
      return Posterior(mean, *losses.log_variance_scale(rho))
    rho = rho.reshape(-1, k, k)
    diagonal, log_diagonal = losses.softplus_scale(
      jnp.diagonal(rho, axis1=1, axis2=2), self.shift
    )
    lower = jnp.tril(0.01 * rho, -1)
    return Posterior(
      mean, lower + jnp.eye(k)[None] * diagonal[:, :, None], log_diagonal
    )

  def _check(self, x: jax.Array) -> None:
    if self.size < 1:
      raise ValueError(f'the code needs at least 1 dimension, got {self.size}.')
    for name, value, accepted in (
      ('covariance', self.covariance, COVARIANCES),
      ('scale', self.scale, SCALES),
    ):
      if value not in accepted:
        raise ValueError(f'{name} must be one of {accepted}, got {value!r}.')
    if self.covariance == 'full' and self.scale != 'softplus':
      raise ValueError("a full covariance takes scale='softplus' alone.")
    if x.ndim != 2:
      raise ValueError(f'a bottleneck reads features [N, D], got {x.shape}.')
