"""Chunks of scores and micro-batches against whole batches, and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import bounds, large_batches
from dim_jax.objectives.terms import mutual_information
from dim_jax.training import parallel

BOUNDS = tuple(mutual_information.BOUNDS.values())


@pytest.fixture(autouse=True)
def _exact_products():
  # Accelerators multiply float32 at a lower precision by default.
  with jax.default_matmul_precision('highest'):
    yield


def embeddings(images=5, globals_=2, locations=3, size=4, scale=1.0):
  rng = np.random.default_rng(0)
  anchors = scale * rng.normal(size=(images * globals_, size))
  local = rng.normal(size=(images, locations, size))
  return jnp.asarray(anchors, jnp.float32), jnp.asarray(local, jnp.float32)


def plain(bound, anchors, local):
  scores = jnp.einsum('ak,jlk->ajl', anchors, local)
  positive, negative, where = bounds.split_pairs(scores)
  return bound(positive, negative, where=where)


def value_and_gradients(form):
  return jax.jit(jax.value_and_grad(form, (0, 1)))


def assert_close(result, expected):
  np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=1e-5)
  for gradient, slope in zip(result[1], expected[1], strict=True):
    # Of the largest, as small ones are differences of large ones.
    atol = 1e-5 * max(1.0, np.abs(slope).max())
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=atol)
    assert np.abs(slope).max() > 1e-3


def assert_same(form, other, *inputs):
  assert_close(
    value_and_gradients(form)(*inputs), value_and_gradients(other)(*inputs)
  )


def test_value_and_gradients_of_every_bound_are_those_of_all_scores():
  # One program: a compilation takes longer than all else here. 10 anchors, so
  # that 2 are left after chunks of 4.
  whole = {b: functools.partial(plain, b) for b in BOUNDS}
  parts = {
    b: functools.partial(large_batches.chunked_bound, b, chunk=4)
    for b in BOUNDS
  }

  @jax.jit
  def run(*inputs):
    return tuple(
      [jax.value_and_grad(forms[b], (0, 1))(*inputs) for b in BOUNDS]
      for forms in (parts, whole)
    )

  for result, expected in zip(*run(*embeddings()), strict=True):
    assert_close(result, expected)


@pytest.mark.parametrize('chunk', [5, 64])
def test_chunks_without_a_rest_or_of_everything(chunk):
  bound = bounds.donsker_varadhan
  form = functools.partial(large_batches.chunked_bound, bound, chunk=chunk)
  assert_same(form, functools.partial(plain, bound), *embeddings())


@pytest.mark.parametrize(
  'bound', [bounds.infonce, bounds.donsker_varadhan], ids=lambda b: b.__name__
)
def test_the_logarithm_holds_where_exponentials_would_overflow(bound):
  # Scores of standard deviation 2 * 60, when float32 ends at e^88.
  anchors, local = embeddings(scale=60.0)
  assert large_batches.dot(anchors, local).max() > 150
  form = functools.partial(large_batches.chunked_bound, bound, chunk=3)
  assert_same(form, functools.partial(plain, bound), anchors, local)


def test_donsker_varadhan_takes_one_logarithm_of_all():
  anchors, local = embeddings()
  scores = np.einsum(
    'ak,jlk->ajl', np.asarray(anchors, float), np.asarray(local, float)
  )
  own = np.arange(10)[:, None] // 2 == np.arange(5)
  # 10 anchors: each has 3 positives and 4 * 3 negatives.
  expected = scores[own].mean() - np.log(np.exp(scores[~own]).mean())
  # The mean over anchors of their own logarithms is another number.
  each = [
    scores[a, own[a]].mean() - np.log(np.exp(scores[a, ~own[a]]).mean())
    for a in range(10)
  ]
  assert abs(expected - np.mean(each)) > 0.1
  value = jax.jit(
    functools.partial(
      large_batches.chunked_bound, bounds.donsker_varadhan, chunk=4
    )
  )(anchors, local)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_any_score_of_any_trees():
  # Minus a squared distance, over a temperature of each anchor's own.
  anchors, local = embeddings()
  temperatures = jnp.linspace(0.5, 2.0, len(anchors))

  def score(row, local):
    anchor, temperature = row
    gaps = anchor[:, None, None] - local['map'][None]
    return -jnp.square(gaps).sum(-1) / temperature[:, None, None]

  def whole(row, local):
    positive, negative, where = bounds.split_pairs(score(row, local))
    return bounds.infonce(positive, negative, where=where)

  def form(row, local):
    return large_batches.chunked_bound(
      bounds.infonce, row, local, chunk=4, score=score
    )

  inputs = (anchors, temperatures), {'map': local}
  result = value_and_gradients(form)(*inputs)
  expected = value_and_gradients(whole)(*inputs)
  assert_close(*((v, jax.tree.leaves(g)) for v, g in (result, expected)))


def compiled_bytes(form, images, locations=64, size=64):
  """Temporary, of a value and its gradients: compiled, not run."""
  anchors = jax.ShapeDtypeStruct((images, size), jnp.float32)
  local = jax.ShapeDtypeStruct((images, locations, size), jnp.float32)
  compiled = value_and_gradients(form).lower(anchors, local).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_4096_images_of_64_locations_fit():
  # The scores alone are 4096^2 * 64 * 4 bytes = 4 GiB, of 64 anchors 64 MiB;
  # the embeddings of the locations, and a gradient's sum, 64 MiB each.
  whole = compiled_bytes(functools.partial(plain, bounds.infonce), 4096)
  assert whole > 8 * 2**30
  form = functools.partial(
    large_batches.chunked_bound, bounds.infonce, chunk=64
  )
  assert compiled_bytes(form, 4096) < 512 * 2**20


def test_no_bound_keeps_more_than_some_chunks():
  images, locations = 256, 16
  scores = 4 * images**2 * locations

  def parts(anchors, local):
    return sum(
      large_batches.chunked_bound(b, anchors, local, chunk=4)
      for b in BOUNDS[1:4]
    )

  # Chunks are 1/64 of all scores; so are the embeddings, with K = 4, and so is
  # each gradient's sum. Three bounds together keep less than what one keeps.
  planned = compiled_bytes(parts, images, locations, 4)
  assert planned < scores
  whole = functools.partial(plain, bounds.jsd)
  assert compiled_bytes(whole, images, locations, 4) > scores


def test_over_a_mesh_the_numbers_are_the_same():
  anchors, local = embeddings(images=8, globals_=1)
  mesh = parallel.make_mesh(8)
  _, split = parallel.shardings(mesh)
  form = functools.partial(large_batches.chunked_bound, bounds.infonce, chunk=3)
  result = value_and_gradients(form)(*jax.device_put((anchors, local), split))
  whole = value_and_gradients(functools.partial(plain, bounds.infonce))
  assert_close(result, whole(anchors, local))


def test_what_cannot_be_is_refused():
  anchors, local = embeddings()
  with pytest.raises(ValueError, match='chunk must be at least 1 anchor, got'):
    large_batches.chunked_bound(bounds.jsd, anchors, local, chunk=0)
  with pytest.raises(ValueError, match='at least 2 images is needed'):
    large_batches.chunked_bound(bounds.jsd, anchors, local[:1], chunk=2)
  with pytest.raises(ValueError, match='9 anchors for 5 images'):
    large_batches.chunked_bound(bounds.jsd, anchors[:9], local, chunk=2)


# Micro-batches.

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
  positive, negative, where = bounds.split_pairs(large_batches.dot(*embeddings))
  return -bounds.infonce(positive, negative, where=where)


def of_micro_batches(size, embed_fn=embed):
  in_parts = large_batches.micro_batched(embed_fn, size=size)
  whole = lambda params, *inputs: loss(in_parts(params, *inputs))  # noqa: E731
  return jax.jit(jax.value_and_grad(whole))


@jax.jit
def of_whole(params, batch, rng):
  return jax.value_and_grad(lambda p: loss(embed(p, batch, rng)))(params)


def assert_same_loss(result, expected):
  np.testing.assert_allclose(result[0], expected[0], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    result[1],
    expected[1],
  )


@pytest.mark.parametrize('size', [1, 4, N])
def test_loss_and_gradient_are_those_of_the_whole_batch(size):
  inputs = make_params(), make_batch(), jax.random.key(0)
  assert_same_loss(of_micro_batches(size)(*inputs), of_whole(*inputs))


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
  assert_same_loss(result, whole(params, batch, rng))


def test_a_loss_with_parameters_and_chunks_of_scores():
  """The encoder in micro-batches, the critic's scores in chunks."""
  batch, rng = make_batch(), jax.random.key(0)
  params = {
    'encoder': make_params(),
    'critic': jnp.asarray(
      np.random.default_rng(2).normal(size=(5, 5)), jnp.float32
    ),
  }
  in_parts = large_batches.micro_batched(embed, size=3)

  def part(params):
    code, local = in_parts(params['encoder'], batch, rng)
    return large_batches.chunked_bound(
      bounds.nwj, code @ params['critic'], local, chunk=5
    )

  def whole(params):
    code, local = embed(params['encoder'], batch, rng)
    scores = large_batches.dot(code @ params['critic'], local)
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
      return large_batches.chunked_bound(
        bounds.jsd, *embed_fn(params, batch, rng), chunk=8
      )

    compiled = jax.jit(jax.value_and_grad(form)).lower(*inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # One hidden layer of all 512 examples; micro-batches are a 32nd of them.
  layer = 4 * n * ROWS * hidden
  assert temporary(embed) > 2 * layer
  assert temporary(large_batches.micro_batched(embed, size=16)) < layer / 2


def test_a_batch_that_does_not_divide_is_refused():
  params, rng = make_params(), jax.random.key(0)
  for size in (5, 0):
    with pytest.raises(
      ValueError, match=rf'of {size} \(micro_batch\) do not divide .* \[12\]'
    ):
      large_batches.micro_batched(embed, size=size)(params, make_batch(), rng)
  uneven = make_batch() | {'label': jnp.zeros(6, jnp.int32)}
  with pytest.raises(ValueError, match=r'arrays of \[6, 12\] rows'):
    large_batches.micro_batched(embed, size=3)(params, uneven, rng)
