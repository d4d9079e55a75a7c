"""The probe of the Deep InfoMax paper: one hidden layer.

It has an optimizer loop of its own, as evaluation knows no training: an epoch
of all seeds is one scan inside of a vmap, without checkpoints or metrics.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from dim_jax import random
from dim_jax.evaluation.probes import examples
from dim_jax.evaluation.probes.examples import Examples, Progress, Result
from dim_jax.evaluation.probes.protocol import Protocol


def mlp_probe(
  train: Examples,
  test: Examples,
  protocol: Protocol,
  progress: Progress | None = None,
) -> Result:
  """Trains the paper's probe, evaluated with running statistics.

  All training rows are fitted, in a new order each epoch and without its last
  partial batch. All seeds train at once.

  Args:
    train: rows to fit.
    test: rows to count the accuracy on.
    protocol: fields seeds and mlp_*.
    progress: called with the fraction that is done after each epoch.

  Returns:
    Accuracies averaged over the last mlp_average_epochs epochs, with the
    variables of the last.

  Raises:
    ValueError: shapes or labels do not fit together.

  References:
    Hjelm et al., "Learning deep representations by mutual information
    estimation and maximization", section 4.1, https://arxiv.org/abs/1808.06670
  """
  classes = examples.check_examples(train, test)
  n, size = len(train.labels), min(protocol.mlp_batch_size, len(train.labels))
  steps = n // size
  model = _Classifier(protocol.mlp_units, classes, protocol.mlp_dropout)
  boundaries = tuple(epoch * steps for epoch in protocol.mlp_decay_epochs)
  init, run_epoch = _mlp_programs(model, protocol.mlp_learning_rate, boundaries)
  keys = jax.vmap(jax.random.key)(np.arange(protocol.seeds, dtype=np.uint32))
  x = jnp.asarray(train.features, jnp.float32)
  labels = jnp.asarray(train.labels, jnp.int32)
  test_x = jnp.asarray(test.features, jnp.float32)
  state = init(keys, x[:2])
  accuracies = []
  for epoch in range(protocol.mlp_epochs):
    orders = [
      np.random.default_rng([seed, epoch]).permutation(n)[: steps * size]
      for seed in range(protocol.seeds)
    ]
    order = np.stack(orders).reshape(-1, steps, size).astype(np.int32)
    state = run_epoch(state, keys, x, labels, order)
    if epoch >= protocol.mlp_epochs - protocol.mlp_average_epochs:
      predictions = np.asarray(_mlp_predict(model, state[0], test_x))
      accuracies.append(np.mean(predictions == np.asarray(test.labels), axis=1))
    if progress is not None:
      jax.block_until_ready(state)
      progress((epoch + 1) / protocol.mlp_epochs)
  weights = jax.tree.map(np.asarray, state[0])
  return Result(np.mean(accuracies, axis=0), predictions, weights)


class _Classifier(nn.Module):
  """Maps features [N, D] to logits [N, classes] by one hidden layer."""

  units: int
  classes: int
  dropout: float

  @nn.compact
  def __call__(self, x, *, train=False):
    x = self._dense(self.units, x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return self._dense(self.classes, nn.relu(x))

  def _dense(self, units, x):
    # PyTorch's initialisation, as in the paper's code.
    bound = x.shape[-1] ** -0.5

    def bias(key, shape, dtype=jnp.float32):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    return nn.Dense(units, kernel_init=kernel, bias_init=bias)(x)


@functools.lru_cache(maxsize=8)
def _mlp_programs(model, learning_rate, boundaries):
  """Compiles the start, and an epoch, of all seeds at once."""
  schedule = optax.piecewise_constant_schedule(
    learning_rate, {boundary: 0.1 for boundary in boundaries}
  )
  optimizer = optax.adam(schedule, b1=0.5, b2=0.999)

  def init_one(key, x):
    variables = model.init(random.branch(key, random.OfProbe.PARAMETERS), x)
    return variables, optimizer.init(variables['params']), 0

  def step(carry, batch, key, x, labels):
    variables, optimizer_state, count = carry

    def loss(params):
      logits, changed = model.apply(
        {'params': params, 'batch_stats': variables['batch_stats']},
        x[batch],
        train=True,
        rngs={'dropout': random.branch(key, count)},
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, labels[batch]
      )
      return jnp.mean(losses), changed

    gradients, changed = jax.grad(loss, has_aux=True)(variables['params'])
    updates, optimizer_state = optimizer.update(gradients, optimizer_state)
    params = optax.apply_updates(variables['params'], updates)
    return ({'params': params, **changed}, optimizer_state, count + 1), None

  def epoch_one(state, key, x, labels, order):
    def body(carry, batch):
      return step(carry, batch, key, x, labels)

    return jax.lax.scan(body, state, order)[0]

  init = jax.jit(jax.vmap(init_one, in_axes=(0, None)))
  epoch = jax.jit(jax.vmap(epoch_one, in_axes=(0, 0, None, None, 0)))
  return init, epoch


@functools.partial(jax.jit, static_argnums=0)
def _mlp_predict(model, variables, x):
  """Predicts labels [S, n] by the running statistics."""
  return jax.vmap(lambda v: jnp.argmax(model.apply(v, x), axis=-1))(variables)
