"""The probe by weighted nearest neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.data import batches
from dim_jax.evaluation.probes import examples
from dim_jax.evaluation.probes.examples import Examples, Progress, Result
from dim_jax.evaluation.probes.protocol import Protocol


def knn_probe(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Classifies by weighted nearest neighbours, in blocks of bounded memory.

  Args:
    train: rows that vote.
    test: rows to classify.
    protocol: fields knn_*.
    progress: called with the fraction that is done after each block.

  Returns:
    One accuracy: nothing here is random.

  Raises:
    ValueError: shapes or labels do not fit together.

  References:
    Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination", section 3.4, https://arxiv.org/abs/1805.01978
  """
  classes = examples.check_examples(train, test)
  x = _unit_rows(jnp.asarray(train.features, jnp.float32))
  labels = jnp.asarray(train.labels, jnp.int32)
  k = min(protocol.knn_neighbours, len(x))

  def predict(_, queries):
    votes = _neighbour_votes(
      x,
      labels,
      queries.astype(np.float32),
      protocol.knn_temperature,
      k=k,
      classes=classes,
    )
    return np.argmax(votes, axis=1).astype(np.int32)

  n = len(test.labels)
  predictions = batches.map_padded(
    predict,
    # 2^24 similarities of a block, or neighbours by class, take 64 MiB.
    max(1, 2**24 // max(len(x), k * classes)),
    test.features,
    progress=progress and (lambda done: progress(done / n)),
  )
  return examples.count_correct(predictions[None], test, None)


@functools.partial(jax.jit, static_argnames=('k', 'classes'))
def _neighbour_votes(x, labels, queries, temperature, *, k, classes):
  """Counts votes [B, C] for queries [B, D] by unit rows x [n, D]."""
  with jax.default_matmul_precision('highest'):
    similarity = _unit_rows(queries) @ x.T
  nearest, rows = jax.lax.top_k(similarity, k)
  # Less the nearest one's, a factor common to all classes: no overflow.
  votes = jnp.exp((nearest - nearest[:, :1]) / temperature)
  return jnp.einsum('bk,bkc->bc', votes, jax.nn.one_hot(labels[rows], classes))


def _unit_rows(x):
  """Scales rows to length 1; zero rows stay."""
  length = jnp.linalg.norm(x, axis=1, keepdims=True)
  return x / jnp.where(length > 0, length, 1.0)
