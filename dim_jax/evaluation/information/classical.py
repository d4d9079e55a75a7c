"""Estimates of mutual information without a network, to compare with."""

import numpy as np
from scipy import spatial, special

from dim_jax.evaluation.information import noisy


def gaussian(x: np.ndarray, y: np.ndarray) -> float:
  r"""Computes the mutual information of the Gaussian with the same covariance.

  .. math:: -\frac{1}{2} \sum_i \ln(1 - \rho_i^2)

  of the canonical correlations, less its bias for so many rows, about
  D D' / (2 n). Right where x and y are jointly Gaussian, and below the truth
  where each is Gaussian by itself; elsewhere it may err either way.

  Args:
    x: rows [n, D].
    y: rows [n, D'].

  Returns:
    Nats; infinite where a combination of one side tells one of the other. A
    little below 0 is noise.

  Raises:
    ValueError: there are no more rows than columns.
  """
  if len(x) <= x.shape[1] + y.shape[1]:
    raise ValueError(
      f'{len(x)} rows of {x.shape[1]} and {y.shape[1]} columns: canonical '
      'correlations need more rows than columns.'
    )
  bases = []
  for side in (x, y):
    side = (side - side.mean(0)) / np.maximum(side.std(0), 1e-300)
    left, sizes, _ = np.linalg.svd(side, full_matrices=False)
    # Columns that depend on others add no direction.
    bases.append(left[:, sizes > 1e-10 * sizes.max()])
  correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
  with np.errstate(divide='ignore'):
    terms = np.log1p(-(np.minimum(correlations, 1.0) ** 2))
  # The shortfall of the joint entropy makes it too high, the others' too low.
  ranks = [base.shape[1] for base in bases]
  short = [noisy.shortfall(len(x), rank) for rank in ranks]
  bias = noisy.shortfall(len(x), sum(ranks)) - sum(short)
  return float(-0.5 * terms.sum()) - bias


def ksg(x: np.ndarray, y: np.ndarray, neighbours: int = 3) -> float:
  r"""Computes the nearest-neighbour estimate of Kraskov et al.

  .. math:: \psi(k) + \psi(n) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle

  Their first one, with the largest difference of columns as the distance, on
  standardised columns. Good in one or two dimensions, and far too low in many:
  0.7 of 1.0 nats in five.

  Args:
    x: rows [n, D].
    y: rows [n, D'].
    neighbours: k, at least 1.

  Returns:
    Nats; a little below 0 is noise.

  Raises:
    ValueError: `neighbours` is not in [1, n).

  References:
    Kraskov, Stögbauer and Grassberger, Estimating mutual information, 2004,
    eq. 8. https://arxiv.org/abs/cond-mat/0305641
  """
  n = len(x)
  if not 1 <= neighbours < n:
    raise ValueError(f'neighbours must be in [1, {n}), got {neighbours}.')
  x, y = ((side - side.mean(0)) / side.std(0) for side in (x, y))
  joint = spatial.cKDTree(np.hstack([x, y]))
  distances, _ = joint.query(joint.data, neighbours + 1, p=np.inf)
  # Strictly nearer than the last neighbour; each counts itself, hence n + 1.
  radius = np.nextafter(distances[:, -1], 0)
  within = [
    spatial.cKDTree(side).query_ball_point(
      side, radius, p=np.inf, return_length=True
    )
    for side in (x, y)
  ]
  means = [np.mean(special.digamma(count)) for count in within]
  return float(special.digamma(neighbours) + special.digamma(n) - sum(means))
