r"""How well second lines of pairs are predicted, character by character.

Two counts stand beside every model. The unigram is the distribution of the
second lines' characters, whatever the first line, with one added to each count;
the bigram is that of the character below a given one,

.. math:: q(b|a) = (c(a, b) + k q(b)) / (c(a) + k),

of the c(a, b) training pairs and places that have b below a, and of a weight k
of the unigram, which validation pairs choose (Dirichlet smoothing). Neither
ever answers with padding or with an unknown character.

Lines are int32 [n, L]; 0 is padding, 1 a character that is not known. Nats.

Chen and Goodman, An empirical study of smoothing techniques for language
modeling, 1999. https://doi.org/10.1006/csla.1999.0128
MacKay and Bauman Peto, A hierarchical Dirichlet language model, 1995.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from dim_jax.data import batches
from dim_jax.data.text import PADDING, SPECIAL

WEIGHTS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Predictions(NamedTuple):
  """What is said of second lines.

  Attributes:
    log_q: ln q(y_t) of the character that is there, float32 [n, L]; of padding
      anything.
    answer: the most probable character at each place, int32 [n, L].
  """

  log_q: np.ndarray
  answer: np.ndarray


def unigram(second: np.ndarray, vocabulary: int) -> np.ndarray:
  """Counts characters, one added to each; float64 [V], 0 for padding."""
  counts = np.bincount(second.reshape(-1), minlength=vocabulary) + 1.0
  counts[PADDING] = 0
  return counts / counts.sum()


def of_unigram(q: np.ndarray, second: np.ndarray) -> Predictions:
  """Predicts by the unigram q [V]: the same answer everywhere."""
  answer = np.full_like(second, SPECIAL + np.argmax(q[SPECIAL:]))
  return Predictions(_log(q)[second], answer)


class Bigram(NamedTuple):
  """Counts of the characters below one another.

  Attributes:
    counts: [V, V], sparse; of a row the first line's character.
    unigram: q [V].
    weight: k.
  """

  counts: Any
  unigram: np.ndarray
  weight: float


def bigram(pairs: np.ndarray, held_out: np.ndarray, vocabulary: int) -> Bigram:
  """Counts pairs int32 [n, 2, L], and chooses k by others, held out."""
  first, second = pairs[:, 0].reshape(-1), pairs[:, 1].reshape(-1)
  real = first != PADDING
  counts = sparse.csr_matrix(
    (np.ones(real.sum()), (first[real], second[real])),
    shape=(vocabulary, vocabulary),
  )
  counts.sum_duplicates()
  q = unigram(pairs[:, 1], vocabulary)
  models = [Bigram(counts, q, weight) for weight in WEIGHTS]
  first, second = held_out[:, 0], held_out[:, 1]
  real = first != PADDING
  return max(models, key=lambda m: _likelihood(m, first, second)[real].mean())


def _likelihood(
  model: Bigram, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
  """Computes ln q(b|a) at each place, [n, L]."""
  a, b = first.reshape(-1), second.reshape(-1)
  pairs = np.asarray(model.counts[a, b]).reshape(first.shape)
  totals = np.asarray(model.counts.sum(1)).reshape(-1)[first]
  value = pairs + model.weight * model.unigram[second]
  return _log(value / (totals + model.weight))


def of_bigram(
  model: Bigram, first: np.ndarray, second: np.ndarray
) -> Predictions:
  """Predicts second lines by the character above."""
  best = np.zeros(len(model.unigram), np.int32)
  for a in np.unique(first[first != PADDING]):
    row = model.weight * model.unigram
    start, stop = model.counts.indptr[a : a + 2]
    row[model.counts.indices[start:stop]] += model.counts.data[start:stop]
    best[a] = SPECIAL + np.argmax(row[SPECIAL:])
  return Predictions(_likelihood(model, first, second), best[first])


def of_model(
  tags: Callable[[Any, dict[str, jax.Array]], jax.Array],
  variables: Any,
  pairs: np.ndarray,
  *,
  batch_size: int = 128,
  progress: Callable[[int], None] | None = None,
) -> Predictions:
  """Predicts second lines by a model of first lines.

  Args:
    tags: `Objective.tags`, `(variables, batch) -> [N, L, V]`.
    variables: its (params, model_state).
    pairs: int32 [n, 2, L].
    batch_size: pairs at a time.
    progress: called with the number of pairs done after each batch.
  """
  run = functools.partial(_of_batch, tags)
  log_q, answer = batches.map_padded(
    lambda _, part: run(variables, part), batch_size, pairs, progress=progress
  )
  return Predictions(log_q, answer)


@functools.partial(jax.jit, static_argnums=0)
def _of_batch(tags, variables, pairs):
  logits = tags(variables, {'text': pairs}).astype(jnp.float32)
  log_q = jax.nn.log_softmax(logits)
  of_second = jnp.take_along_axis(log_q, pairs[:, 1, :, None], axis=2)[..., 0]
  answer = SPECIAL + jnp.argmax(logits[..., SPECIAL:], axis=-1)
  return of_second, answer.astype(jnp.int32)


def summary(found: Predictions, second: np.ndarray) -> dict[str, float]:
  """Averages over the characters of second lines, padding left out.

  Returns:
    'accuracy', a fraction of all characters, those that are not known counting
    as wrong; 'nats' a character, -ln q, of those that are known, and its
    exponential, 'perplexity'.
  """
  known = second >= SPECIAL
  nats = float(-found.log_q[known].mean(dtype=np.float64))
  hits = (found.answer == second) & known
  return {
    'accuracy': float(hits.sum() / (second != PADDING).sum()),
    'nats': nats,
    'perplexity': float(np.exp(nats)),
  }


def place_marginals(
  second: np.ndarray, vocabulary: int, weight: float = 100.0
) -> dict[int, np.ndarray]:
  """Counts the characters at each place of lines of each length.

  Args:
    second: lines [n, L].
    vocabulary: V.
    weight: of the unigram, added to the counts.

  Returns:
    By length n the distributions p_t [n, V] at its places.
  """
  q = unigram(second, vocabulary)
  lengths = (second != PADDING).sum(1)
  found = {}
  for length in np.unique(lengths):
    lines = second[lengths == length, :length]
    rows = [np.bincount(x, minlength=vocabulary) + weight * q for x in lines.T]
    found[int(length)] = np.stack(rows) / (len(lines) + weight)
  return found


def pointwise(
  found: Predictions,
  second: np.ndarray,
  marginals: dict[int, np.ndarray],
  *,
  least: int = 100,
) -> list[dict[str, float]]:
  r"""Averages the pointwise information of each place, ln q(y_t|x) / p_t(y_t).

  With p_t the marginal of that place, of training lines of that length, its
  mean is H(Y_t) - H(Y_t|X) less the divergence of the model q from the truth,
  plus that of p_t: with a good p_t, what q knows of I(X; Y_t) from below. Of
  characters that are known.

  Args:
    found: of a model of first lines.
    second: lines [n, L].
    marginals: see `place_marginals`; other lengths are left out.
    least: so many lines of a length at least.

  Returns:
    For each length and place: 'length', 'place' from 1, 'nats', its standard
    'error' and how many 'lines'.
  """
  lengths = (second != PADDING).sum(1)
  rows = []
  for length, p in marginals.items():
    of = lengths == length
    for t in range(length):
      y = second[of, t]
      known = y >= SPECIAL
      if known.sum() < least:
        continue
      values = (found.log_q[of, t] - _log(p[t])[y])[known]
      rows.append(
        {
          'length': length,
          'place': t + 1,
          'nats': float(values.mean(dtype=np.float64)),
          'error': float(values.std(ddof=1) / np.sqrt(len(values))),
          'lines': len(values),
        }
      )
  return rows


def recall(scores: np.ndarray, most: Sequence[int]) -> dict[int, float]:
  """Computes how often the right one is among the best k of all.

  Args:
    scores: [n, n], of row i with candidate j; j = i is right. A candidate that
      scores as high as the right one comes before it.
    most: values of k.

  Returns:
    The fraction of rows by k.
  """
  own = np.diagonal(scores)[:, None]
  before = (scores >= own).sum(1) - 1
  return {k: float(np.mean(before < k)) for k in most}


def _log(x: np.ndarray) -> np.ndarray:
  with np.errstate(divide='ignore'):
    return np.log(x)
