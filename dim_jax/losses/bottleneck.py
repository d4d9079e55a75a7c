r"""Rate and distortion: the terms of the Variational Information Bottleneck.

A classifier reads a code z ~ p(z|x). The distortion is the cross-entropy of the
labels given z, the rate R = E_x KL(p(z|x) || r(z)) what the code costs
against a marginal r, and the bottleneck minimises distortion + beta * rate.

R is an upper bound on I(Z; X), by exactly KL(p(z) || r(z)), p(z) the aggregate
of all codes; and often a loose one: over N examples I(Z; X) is at most ln N,
which R can exceed many times. H(Y) - distortion is a lower bound on I(Z; Y).

Per-example terms come unreduced, [N], summed over dimensions: average them over
examples, never over dimensions. Everything is in nats; the unit cancels in
beta. Codes have K dimensions, labels C classes, and each code S samples; shapes
that do not fit raise an error.

Alemi et al., Deep Variational Information Bottleneck, ICLR 2017.
https://arxiv.org/abs/1612.00410
"""

import math

import chex
import jax
import jax.numpy as jnp

_LOG_2PI = math.log(2 * math.pi)


def softplus_scale(
  rho: jax.Array, shift: float = -5.0
) -> tuple[jax.Array, jax.Array]:
  r"""Computes the paper's standard deviation and its logarithm.

  It is softplus(rho + shift). Shifted by -5, a fresh head starts almost
  deterministic, at sigma = 0.0067. The logarithm is not taken of the softplus,
  which is 0 in float32 below about -88: there
  ln softplus(t) = t - e^t / 2 + O(e^2t).

  Returns:
    sigma and ln sigma, of the shape of `rho`; the logarithm and its gradient
    are finite for every finite rho.
  """
  t = rho + shift
  low = t < -10.0
  # Both branches get safe arguments: an infinite one would turn the other's
  # gradient into NaN.
  small = jnp.where(low, t, -10.0)
  large = jnp.where(low, -10.0, t)
  log_std = jnp.where(
    low, small - jnp.exp(small) / 2, jnp.log(jax.nn.softplus(large))
  )
  return jax.nn.softplus(t), log_std


def log_variance_scale(
  log_variance: jax.Array, bound: float = 20.0
) -> tuple[jax.Array, jax.Array]:
  """Computes a standard deviation from a log-variance, and its logarithm.

  The log-variance, any real numbers, is squashed smoothly into (-bound, bound),
  so that sigma^2 never overflows; near 0 that is the identity, and a fresh head
  starts at sigma = 1.

  Returns:
    sigma and ln sigma, of the shape of `log_variance`.
  """
  log_std = bound * jnp.tanh(log_variance / bound) / 2
  return jnp.exp(log_std), log_std


def rate_by_dimension(
  mean: jax.Array,
  std: jax.Array,
  log_std: jax.Array | None = None,
  *,
  marginal_mean: jax.Array | float = 0.0,
  marginal_log_std: jax.Array | float = 0.0,
) -> jax.Array:
  r"""Computes the KL of each dimension's Gaussian from the marginal's.

  .. math::
    \frac{\sigma^2 + (\mu - m)^2}{2 s^2} - \frac{1}{2} - \ln \frac{\sigma}{s}

  Args:
    mean: shape [..., K].
    std: standard deviations, not variances, shape [..., K].
    log_std: their logarithm where it is known better than by ln(std).
    marginal_mean: m, of a shape that broadcasts to [..., K], such as [1, K].
    marginal_log_std: ln s, likewise. The defaults are N(0, I).

  Returns:
    Nats, shape [..., K].
  """
  _check_like('std', std, mean)
  log_std = jnp.log(std) if log_std is None else log_std
  _check_like('log_std', log_std, mean)
  for name, value in (
    ('marginal_mean', marginal_mean),
    ('marginal_log_std', marginal_log_std),
  ):
    shape = jnp.shape(value)
    if shape and shape[-1] != mean.shape[-1]:
      raise ValueError(
        f'{name} {shape} has {shape[-1]} dimensions, the code {mean.shape} has '
        f'{mean.shape[-1]} (the last axis): give a marginal of the same code.'
      )
  scaled = jnp.exp(-marginal_log_std)
  square = jnp.square(std * scaled) + jnp.square(
    (mean - marginal_mean) * scaled
  )
  return (square - 1) / 2 - (log_std - marginal_log_std)


def rate_diagonal(
  mean: jax.Array,
  std: jax.Array,
  log_std: jax.Array | None = None,
  *,
  marginal_mean: jax.Array | float = 0.0,
  marginal_log_std: jax.Array | float = 0.0,
) -> jax.Array:
  """Computes the KL of diagonal Gaussian codes from a diagonal marginal.

  It is `rate_by_dimension`, whose arguments it takes, summed over dimensions:
  nats for each example, shape [N], of codes [N, K].
  """
  return rate_by_dimension(
    mean,
    std,
    log_std,
    marginal_mean=marginal_mean,
    marginal_log_std=marginal_log_std,
  ).sum(-1)


def rate_cholesky(
  mean: jax.Array,
  chol: jax.Array,
  log_diagonal: jax.Array | None = None,
  *,
  marginal_mean: jax.Array | None = None,
  marginal_chol: jax.Array | None = None,
) -> jax.Array:
  r"""Computes the KL of full-covariance Gaussian codes from a Gaussian.

  With covariance :math:`L L^T` and the marginal N(0, I),

  .. math:: (\|L\|_F^2 + \|\mu\|^2 - K) / 2 - \sum_i \ln L_{ii}

  Args:
    mean: shape [N, K].
    chol: lower Cholesky factors with a positive diagonal, shape [N, K, K].
    log_diagonal: ln of the diagonal where it is known better, shape [N, K].
    marginal_mean: of another marginal, shape [K].
    marginal_chol: its Cholesky factor, shape [K, K].

  Returns:
    Nats for each example, shape [N].
  """
  size = mean.shape[-1]
  if mean.ndim != 2 or chol.shape != (*mean.shape, size):
    raise ValueError(
      'rate_cholesky takes mean [N, K] and chol [N, K, K], got '
      f'{mean.shape} and {chol.shape}.'
    )
  if log_diagonal is None:
    log_diagonal = jnp.log(jnp.diagonal(chol, axis1=1, axis2=2))
  constant = jnp.zeros(())
  for name, value, shape in (
    ('marginal_mean', marginal_mean, (size,)),
    ('marginal_chol', marginal_chol, (size, size)),
  ):
    if value is not None and value.shape != shape:
      raise ValueError(
        f'{name} must be of shape {shape} for codes {mean.shape}, got '
        f'{value.shape}: give a marginal of the same code.'
      )
  if marginal_mean is not None:
    mean = mean - marginal_mean[None]
  if marginal_chol is not None:
    constant = jnp.log(jnp.diagonal(marginal_chol)).sum()
    solve = jax.vmap(
      lambda x: jax.scipy.linalg.solve_triangular(marginal_chol, x, lower=True)
    )
    both = solve(jnp.concatenate([chol, mean[:, :, None]], axis=2))
    chol, mean = both[:, :, :size], both[:, :, size]
  square = jnp.square(chol).sum((1, 2)) + jnp.square(mean).sum(1)
  return (square - size) / 2 - log_diagonal.sum(1) + constant


def log_normal(z: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
  """Computes the log-density of diagonal Gaussians, over the last axis.

  Returns nats, shape [...], at points `z` [..., K]; the mean and the logarithm
  of the standard deviation are of shapes that broadcast to them.
  """
  # The exponential acts on the smaller array, before anything broadcasts.
  scaled = (z - mean) * jnp.exp(-log_std)
  return -(jnp.square(scaled) / 2 + log_std + _LOG_2PI / 2).sum(-1)


def log_mixture(
  z: jax.Array, mean: jax.Array, log_std: jax.Array, logits: jax.Array
) -> jax.Array:
  """Computes the log-density of a mixture of diagonal Gaussians, in nats.

  The learned marginals of this form are a mixture of Gaussians, and the
  VampPrior, whose components are the posteriors of learned pseudo-inputs.

  Args:
    z: points, shape [S, N, K].
    mean: of the components, shape [M, K].
    log_std: shape [M, K].
    logits: unnormalised log-weights, shape [M].

  Returns:
    Shape [S, N].

  References:
    Tomczak and Welling, VAE with a VampPrior, 2018.
    https://arxiv.org/abs/1705.07120
  """
  if mean.shape[-1] != z.shape[-1]:
    raise ValueError(
      f'the mixture {mean.shape} has {mean.shape[-1]} dimensions, the code '
      f'{z.shape} has {z.shape[-1]} (the last axis).'
    )
  each = log_normal(z[:, :, None], mean[None, None], log_std[None, None])
  weights = jax.nn.log_softmax(logits)[None, None]
  return jax.nn.logsumexp(each + weights, axis=2)


def rate_monte_carlo(
  log_posterior: jax.Array, log_marginal: jax.Array
) -> jax.Array:
  """Estimates the rate as the mean of ln p(z|x) - ln r(z) over z ~ p(z|x).

  For marginals without a closed form. With ln b(z|y) of a class-conditional
  marginal in place of ln r(z) it is the residual of the Conditional Entropy
  Bottleneck, an upper bound on I(X; Z | Y).

  Args:
    log_posterior: ln p(z|x) at the samples, shape [S, N].
    log_marginal: ln r(z), or ln b(z|y), at the same samples, shape [S, N].

  Returns:
    Nats for each example, shape [N]; single estimates may be negative.

  References:
    Fischer, The Conditional Entropy Bottleneck, 2020.
    https://arxiv.org/abs/2002.05379
  """
  chex.assert_rank([log_posterior, log_marginal], 2)
  chex.assert_equal_shape([log_posterior, log_marginal])
  return (log_posterior - log_marginal).mean(0)


def rate_excess(rate: jax.Array, budget: float) -> jax.Array:
  """Computes max(rate - budget, 0): information is free up to a budget.

  Both are in nats; a negative budget raises ValueError.
  """
  if budget < 0:
    raise ValueError(f'budget must be >= 0 nats, got {budget}.')
  return jax.nn.relu(rate - budget)


def smooth_labels(
  labels: jax.Array,
  num_classes: int,
  amount: float,
  definition: str = 'uniform',
) -> jax.Array:
  """Softens labels, in either of the two definitions in use.

  Args:
    labels: shape [N].
    num_classes: C.
    amount: epsilon.
    definition: 'uniform' mixes with the uniform distribution, (1 - epsilon) *
      onehot + epsilon / C (Szegedy et al. 2016); 'zeros' puts epsilon where the
      zeros are and normalises, so the true class has 1 / (1 + (C - 1) epsilon)
      (Alemi et al. 2017).

  Returns:
    Distributions, shape [N, C].

  Raises:
    ValueError: an unknown definition, or an epsilon outside of [0, 1].

  References:
    https://arxiv.org/abs/1512.00567, section 7.
  """
  if not 0 <= amount <= 1:
    raise ValueError(f'label smoothing must be in [0, 1], got {amount}.')
  onehot = jax.nn.one_hot(labels, num_classes)
  if definition == 'uniform':
    return (1 - amount) * onehot + amount / num_classes
  if definition == 'zeros':
    return jnp.where(onehot > 0, 1.0, amount) / (1 + (num_classes - 1) * amount)
  raise ValueError(
    f"the definition is 'uniform' or 'zeros', got {definition!r}."
  )


def confidence_penalty(
  logits: jax.Array, threshold: float | None = None
) -> jax.Array:
  r"""Computes the cost of a confident prediction: minus its entropy.

  Pereyra et al. print the hinge with a minus sign, which would reward
  confidence; this is the penalising form, to be added to the loss.

  Args:
    logits: shape [..., C].
    threshold: with it, the hinge max(0, threshold - H), in nats: only entropies
      below it cost anything.

  Returns:
    Nats, shape [...]: -H(p), at least -ln C; or the hinge, at least 0.

  References:
    Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output
    Distributions, 2017. https://arxiv.org/abs/1701.06548
  """
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  entropy = -(jnp.exp(log_p) * log_p).sum(-1)
  if threshold is None:
    return -entropy
  return jax.nn.relu(threshold - entropy)


def distortion(
  logits: jax.Array,
  labels: jax.Array,
  *,
  log_of_mean: bool = False,
  smoothing: float = 0.0,
  smoothing_definition: str = 'uniform',
) -> jax.Array:
  """Computes the cross-entropy of each label, over posterior samples.

  Args:
    logits: of S samples of each code, shape [S, N, C].
    labels: class indices, shape [N].
    log_of_mean: False gives -mean_s ln q(y|z_s), the paper's objective with
      less noise; True gives -ln mean_s q(y|z_s), the loss of the averaged
      prediction, which is never larger and punishes a spread posterior less.
    smoothing: label smoothing's epsilon.
    smoothing_definition: as in `smooth_labels`.

  Returns:
    Nats for each example, shape [N]. A label outside of 0..C-1 gives NaN under
    jit, where it cannot raise.

  Raises:
    ValueError: a label is outside of 0..C-1.
  """
  if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
    raise ValueError(
      'logits must be [S, N, C] with labels [N], got '
      f'{logits.shape} and {labels.shape}; one sample is logits[None].'
    )
  classes = logits.shape[2]
  _check_labels(labels, classes)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  if log_of_mean:
    log_p = (jax.nn.logsumexp(log_p, axis=0) - math.log(len(logits)))[None]
  if smoothing:
    targets = smooth_labels(labels, classes, smoothing, smoothing_definition)
  else:
    targets = jax.nn.one_hot(labels, classes)
  # where=: a log-probability of -inf must not meet a target of 0.
  each = -(jnp.where(targets[None] > 0, log_p, 0.0) * targets[None]).sum(2)
  valid = (labels >= 0) & (labels < classes)
  return jnp.where(valid, each.mean(0), jnp.nan)


def vib_loss(
  logits: jax.Array, labels: jax.Array, rate: jax.Array, beta: float | jax.Array
) -> jax.Array:
  """Computes the Variational Information Bottleneck, distortion + beta * rate.

  Args:
    logits: of S samples of each code, shape [S, N, C].
    labels: class indices, shape [N].
    rate: nats for each example, shape [N].
    beta: nats of distortion that a nat of rate is worth; 1e-3 in the paper's
      table. From 1 on the optimum is to forget everything.

  Returns:
    A scalar in nats, averaged over examples.

  Raises:
    ValueError: a label is out of range, or beta < 0.

  References:
    Alemi et al. 2017, eq. 17. https://arxiv.org/abs/1612.00410
  """
  if isinstance(beta, int | float) and not beta >= 0:
    raise ValueError(f'beta must be >= 0, got {beta}.')
  if rate.shape != labels.shape:
    raise ValueError(
      f'rate must be one number an example, {labels.shape}, got {rate.shape}: '
      'sum it over dimensions, and leave the average to this function.'
    )
  return (distortion(logits, labels) + beta * rate).mean()


def label_entropy(counts: jax.typing.ArrayLike) -> jax.Array:
  """Computes H(Y) in nats, of labels of which each class has `counts` [C]."""
  number = jnp.asarray(counts, jnp.float32)
  return jax.scipy.special.entr(number / number.sum()).sum()


def _check_like(name: str, value: jax.Array, mean: jax.Array) -> None:
  if value.shape != mean.shape:
    raise ValueError(
      f'{name} must have the shape of the mean, {mean.shape}, got '
      f'{value.shape}.'
    )


def _check_labels(labels: jax.Array, classes: int) -> None:
  """Raises on a bad label where its value is known, outside of jit."""
  if isinstance(labels, jax.core.Tracer):
    return
  with jax.ensure_compile_time_eval():
    for bad in (int(labels.min()), int(labels.max())):
      if not 0 <= bad < classes:
        raise ValueError(
          f'labels must be in 0..{classes - 1} for logits of {classes} '
          f'classes, got {bad}.'
        )
