"""Errors and information of a classifier with a stochastic code.

A prediction averages the probabilities of S posterior samples. One sample alone
errs more, by half a point and more on MNIST, so both errors are always given.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dim_jax.data import batches
from dim_jax.evaluation import calibration
from dim_jax.losses import bottleneck

Logits = Callable[[Any, jax.Array, jax.Array], jax.Array]
Rate = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Predictions(NamedTuple):
  """What a classifier predicts for n images.

  Attributes:
    logits: of S posterior samples, shape [S, n, C].
    at_mean: of the code's mean, shape [n, C].
    rate: nats of each image, shape [n]; None without a bottleneck.
  """

  logits: np.ndarray
  at_mean: np.ndarray
  rate: np.ndarray | None


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _predict(logits, at_mean, rate, variables, images, rng):
  logits_rng, mean_rng, rate_rng = jax.random.split(rng, 3)
  return (
    logits(variables, images, logits_rng),
    at_mean(variables, images, mean_rng)[0],
    None if rate is None else rate(variables, images, rate_rng),
  )


def predict(
  logits: Logits,
  at_mean: Logits,
  rate: Rate | None,
  variables: Any,
  images: np.ndarray,
  rng: jax.Array,
  *,
  batch_size: int = 500,
  progress: Callable[[int], None] | None = None,
) -> Predictions:
  """Runs a classifier over any number of images.

  Pass the same function objects again to reuse the compiled program.

  Args:
    logits: `(variables, images, rng) -> [S, N, C]`.
    at_mean: the same at the code's mean, `-> [1, N, C]`.
    rate: `(variables, images, rng) -> [N]` in nats; None without one.
    variables: what they need; only read.
    images: uint8, or float32 in [-1, 1], shape [n, H, W, C].
    rng: batch i draws from `fold_in(rng, i)`.
    batch_size: images in one dispatch; the last batch is padded.
    progress: called with the number of images done after each batch.

  Returns:
    The predictions, in the order of the images.

  Raises:
    ValueError: there are no images, or floats outside of [-1, 1].
  """
  if images.ndim != 4 or not len(images):
    raise ValueError(
      f'images must be [n, H, W, C] with n >= 1, got {images.shape}.'
    )
  if np.issubdtype(images.dtype, np.floating):
    outside = int(np.sum(~(np.abs(images) <= 1)))
    if outside:
      raise ValueError(
        f'images of floats must be in [-1, 1]: {outside} of {images.size} '
        'values are outside or NaN.'
      )

  def compute(i: int, part: np.ndarray) -> tuple[Any, ...]:
    samples, *others = _predict(
      logits, at_mean, rate, variables, part, jax.random.fold_in(rng, i)
    )
    return np.moveaxis(np.asarray(samples), 1, 0), *others

  samples, mean, rates = batches.map_padded(
    compute, batch_size, images, progress=progress
  )
  samples = np.ascontiguousarray(np.moveaxis(samples, 0, 1))
  return Predictions(samples, mean, rates)


def probabilities(predictions: Predictions) -> np.ndarray:
  """Computes class probabilities of each sample, float64, shape [S, n, C]."""
  return np.exp(_log_probabilities(predictions.logits))


def cross_entropy(predictions: Predictions, labels: np.ndarray) -> np.ndarray:
  """Computes -ln q(y|z), averaged over samples, nats, shape [n].

  Args:
    predictions: of n images.
    labels: their classes, shape [n].

  Raises:
    ValueError: labels are not n classes.
  """
  log_p = _log_probabilities(predictions.logits)
  labels = calibration.check_labels(labels, *log_p.shape[1:])
  return -log_p[:, np.arange(len(labels)), labels].mean(0)


def summary(
  predictions: Predictions,
  labels: np.ndarray,
  *,
  samples: int | None = None,
  bins: int = 15,
) -> dict[str, Any]:
  """Summarises a classifier in numbers.

  Args:
    predictions: of all images of a split.
    labels: their classes, shape [n].
    samples: the number S to name the errors by; by default the predictions'
      own. The one sample of a network without noise stands for any number.
    bins: of the calibration error.

  Returns:
    'examples'; errors in per cent: 'error_1' of single samples (averaged over
    all S), 'error_S' of the S samples' averaged probabilities, with the number
    in place of S, and 'error_mean' at the code's mean; in bits an example
    'cross_entropy_bits' (of single samples), 'rate_bits' (an upper bound on
    I(Z; X); None without a code), 'izy_bits' (the lower bound H(Y) - cross-
    entropy on I(Z; Y), with the split's own label entropy) and
    'label_entropy_bits'; of the averaged prediction 'nll_S' in nats, 'brier',
    'ece' and 'ece_bins'.

  Raises:
    ValueError: labels are not n classes, or logits are not finite.
  """
  log_p = _log_probabilities(predictions.logits)
  count, n, classes = log_p.shape
  samples = samples or count
  average = np.exp(log_p).mean(0)
  nats = float(cross_entropy(predictions, labels).mean())
  entropy = float(
    bottleneck.label_entropy(np.bincount(labels, minlength=classes))
  )
  rate = predictions.rate

  def error(scores: np.ndarray) -> float:
    return 100 * float(np.mean(scores.argmax(-1) != labels))

  return {
    'examples': n,
    'samples': count,
    'error_1': error(log_p),
    f'error_{samples}': error(average),
    'error_mean': error(predictions.at_mean),
    'cross_entropy_bits': _bits(nats),
    'rate_bits': None if rate is None else _bits(float(rate.mean())),
    'izy_bits': _bits(entropy - nats),
    'label_entropy_bits': _bits(entropy),
    f'nll_{samples}': calibration.nll(average, labels),
    'brier': calibration.brier(average, labels),
    'ece': calibration.reliability(average, labels, bins).ece,
    'ece_bins': bins,
  }


def classifier_score(logits: np.ndarray) -> float:
  r"""Computes how clear and how varied images look to a classifier.

  .. math:: e^{I(X; Y)}, \quad I(X; Y) = H(E_x p(y|x)) - E_x H(p(y|x))

  which is 1 where it tells nothing of any image, or the same of all, and C
  where it is sure of each, and all classes are as frequent. Images of one class
  may be alike without its falling. With a network for ImageNet it is the
  inception score.

  Args:
    logits: of n images, shape [n, C].

  Returns:
    The exponential of the information in nats, from 1 to C.

  References:
    Salimans et al., Improved techniques for training GANs, 2016, section 4.
    https://arxiv.org/abs/1606.03498
  """
  log_p = _log_probabilities(logits)
  p = np.exp(log_p)
  # A class that nothing looks like adds 0.
  marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
  return float(np.exp((p * (log_p - marginal)).sum(-1).mean()))


def _bits(nats: float) -> float:
  return nats / float(np.log(2))


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
