"""What each unit of a stochastic code keeps: variance, noise, nats.

Unit k of a Gaussian code z ~ N(mean(x), std(x)^2) tells of the example by its
mean, whose variance over examples is the signal, and hides it by its noise.
"""

from typing import NamedTuple

import numpy as np

ACTIVE = 0.01
"""A unit whose mean varies by more, in the code's unit squared, is active."""


class Units(NamedTuple):
  """Measures of the K units of a code, each float64 [K].

  Attributes:
    variance: of the mean over examples, Var(mu).
    signal_to_noise: that variance over the mean variance of the noise.
    capacity: ln(1 + signal_to_noise) / 2, nats: what the unit can tell at most,
      as a channel whose noise is the same for all examples, and I(Z_k; X) if
      the means are Gaussian. An offset or a scale of the unit changes nothing.
    rate: the mean KL from N(0, 1), nats. At least I(Z_k; X), and at least the
      capacity.
  """

  variance: np.ndarray
  signal_to_noise: np.ndarray
  capacity: np.ndarray
  rate: np.ndarray

  @property
  def active(self) -> int:
    """How many units are active."""
    return int(np.sum(self.variance > ACTIVE))

  def arrays(self) -> dict[str, np.ndarray]:
    """Names the measures 'unit_variance' and so on, for a file of arrays."""
    return {f'unit_{name}': x for name, x in self._asdict().items()}

  def summary(self) -> dict[str, float | int]:
    """Counts active units and adds up nats, for a JSON file."""
    return {
      'active': self.active,
      'units': len(self.variance),
      'capacity': float(self.capacity.sum()),
      'rate': float(self.rate.sum()),
      'largest_variance': float(self.variance.max()),
    }


def measure(
  mean: np.ndarray, scale: np.ndarray, log_scale: np.ndarray
) -> Units:
  """Measures the units of Gaussian codes.

  Args:
    mean: of the codes of n examples, shape [n, K].
    scale: standard deviations [n, K], all above 0, or Cholesky factors
      [n, K, K] of full covariances; then each unit is taken by itself, and the
      rates do not add up to the code's.
    log_scale: ln of the standard deviations, or of the factors' diagonals; of
      factors it is not used.

  Returns:
    The measures. With the variance over n examples, not n - 1.

  Raises:
    ValueError: there are fewer than two examples, or a shape does not fit.

  References:
    Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016,
    section 5.1 (active units). https://arxiv.org/abs/1509.00519
    Cover and Thomas, Elements of Information Theory, 2006, theorem 9.1.1
    (capacity).
  """
  mean, scale, log_std = (
    np.asarray(x, np.float64) for x in (mean, scale, log_scale)
  )
  full = scale.ndim == 3
  if (
    mean.ndim != 2
    or len(mean) < 2
    or scale.shape != (*mean.shape, *mean.shape[1:] * full)
  ):
    raise ValueError(
      'units are measured of codes of at least 2 examples, mean [n, K] and '
      f'scale [n, K] or [n, K, K], got {mean.shape} and {scale.shape}.'
    )
  noise = np.square(scale)
  if full:
    noise = noise.sum(2)
    log_std = np.log(noise) / 2
  variance = mean.var(0)
  ratio = variance / noise.mean(0)
  rate = (np.square(mean) + noise - 1) / 2 - log_std
  return Units(variance, ratio, np.log1p(ratio) / 2, rate.mean(0))
