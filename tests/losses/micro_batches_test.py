"""Micro-batches against one batch, for losses that compare all examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import bounds, chunked, micro_batches

N, ROWS, SIZE, HIDDEN = 12, 3, 6, 8


def make_params(hidden=HIDDEN):
  rng = np.random.default_rng(0)
  shapes = {'in': (SIZE, hidden), 'local': (hidden, 5), 'code': (hidden, 5)}
  return {
    k: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
    for k, shape in shapes.items()
  }


def make_batch(n=N):
  rng = np.random.default_rng(1)
  return {'x': jnp.asarray(rng.normal(size=(n, ROWS, SIZE)), jnp.float32)}


def embed(params, batch, rng):
  """Rows of features, and a code of each example; nothing is drawn."""
  del rng
  hidden = jnp.tanh(batch['x'] @ params['in'])
  return hidden.mean(1) @ params['code'], hidden @ params['local']


def noisy_embed(params, batch, rng):
  code, local = embed(params, batch, None)
  return code + jax.random.normal(rng, code.shape), local


def loss(embeddings):
  """Every code is scored against the rows of every example."""
  positive, negative, where = bounds.split_pairs(chunked.dot(*embeddings))
  return -bounds.infonce(positive, negative, where=where)


def of_micro_batches(size, embed_fn=embed):
  return jax.jit(
    functools.partial(micro_batches.value_and_grad, embed_fn, loss, size=size)
  )


@jax.jit
def of_whole(params, batch, rng):
  return jax.value_and_grad(lambda p: loss(embed(p, batch, rng)))(params)


def assert_same(result, expected):
  np.testing.assert_allclose(result[0], expected[0], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    result[1],
    expected[1],
  )


@pytest.mark.parametrize('size', [1, 4, N])
def test_loss_and_gradient_are_those_of_the_whole_batch(size):
  inputs = make_params(), make_batch(), jax.random.key(0)
  assert_same(of_micro_batches(size)(*inputs), of_whole(*inputs))


def test_accumulation_is_another_loss():
  # What it is not: the mean over micro-batches of 4, with 3 * 3 negatives.
  params, batch, rng = make_params(), make_batch(), jax.random.key(0)
  value, grads = of_whole(params, batch, rng)
  parts = [
    of_whole(params, {'x': batch['x'][i : i + 4]}, rng) for i in (0, 4, 8)
  ]
  # Rounding is 1e-6.
  assert abs(value - np.mean([v for v, _ in parts])) > 0.01
  mean = sum(g['in'] for _, g in parts) / 3
  assert jnp.abs(mean - grads['in']).max() > 0.01


def test_both_passes_draw_the_same():
  params, batch, rng = make_params(), make_batch(), jax.random.key(3)

  @jax.jit
  def whole(params, batch, rng):
    # By hand: micro-batch i of 4 has the rows i, i + 3, i + 6 and i + 9.
    noise = [
      jax.random.normal(jax.random.fold_in(rng, i), (4, 5)) for i in range(3)
    ]
    noise = jnp.stack([noise[row % 3][row // 3] for row in range(N)])

    def of(params):
      code, local = embed(params, batch, None)
      return loss((code + noise, local))

    return jax.value_and_grad(of)(params)

  result = of_micro_batches(4, noisy_embed)(params, batch, rng)
  assert_same(result, whole(params, batch, rng))


def test_a_loss_with_parameters_and_chunks_of_scores():
  """The encoder in micro-batches, the critic's scores in chunks."""
  batch, rng = make_batch(), jax.random.key(0)
  params = {
    'encoder': make_params(),
    'critic': jnp.asarray(
      np.random.default_rng(2).normal(size=(5, 5)), jnp.float32
    ),
  }
  in_parts = micro_batches.micro_batched(embed, size=3)

  def part(params):
    code, local = in_parts(params['encoder'], batch, rng)
    return chunked.chunked_bound(
      bounds.nwj, code @ params['critic'], local, chunk=5
    )

  def whole(params):
    code, local = embed(params['encoder'], batch, rng)
    scores = chunked.dot(code @ params['critic'], local)
    positive, negative, where = bounds.split_pairs(scores)
    return bounds.nwj(positive, negative, where=where)

  result, expected = jax.jit(
    lambda p: (jax.value_and_grad(part)(p), jax.value_and_grad(whole)(p))
  )(params)
  np.testing.assert_allclose(result[0], expected[0], rtol=1e-5)
  for a, b in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
    scale = np.abs(b).max()
    np.testing.assert_allclose(a / scale, b / scale, atol=1e-5)


def test_memory_is_that_of_a_micro_batch():
  n, hidden = 512, 256
  inputs = jax.eval_shape(
    lambda: (make_params(hidden), make_batch(n), jax.random.key(0))
  )

  def temporary(embed_fn):
    def form(params, batch, rng):
      # Few scores at a time, so that the activations are what counts.
      return chunked.chunked_bound(
        bounds.jsd, *embed_fn(params, batch, rng), chunk=8
      )

    compiled = jax.jit(jax.value_and_grad(form)).lower(*inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # One hidden layer of all 512 examples; micro-batches are a 32nd of them.
  layer = 4 * n * ROWS * hidden
  assert temporary(embed) > 2 * layer
  assert temporary(micro_batches.micro_batched(embed, size=16)) < layer / 2


def test_a_batch_that_does_not_divide_is_refused():
  params, rng = make_params(), jax.random.key(0)
  for size in (5, 0):
    with pytest.raises(ValueError, match=rf'of {size} rows from .* \[12\]'):
      micro_batches.micro_batched(embed, size=size)(params, make_batch(), rng)
  uneven = make_batch() | {'label': jnp.zeros(6, jnp.int32)}
  with pytest.raises(ValueError, match=r'from arrays of \[6, 12\] rows'):
    micro_batches.micro_batched(embed, size=3)(params, uneven, rng)
