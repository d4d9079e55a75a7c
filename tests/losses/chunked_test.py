"""Chunks of anchors against all scores at once, and against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import bounds, chunked, divergences
from dim_jax.training import parallel

BOUNDS = (
  bounds.infonce,
  bounds.jsd,
  bounds.donsker_varadhan,
  bounds.nwj,
  divergences.gan,
  divergences.kl,
  divergences.reverse_kl,
  divergences.squared_hellinger,
  divergences.chi_squared,
)


@pytest.fixture(autouse=True)
def _exact_products():
  # Accelerators multiply float32 at a lower precision unless told.
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
    b: functools.partial(chunked.chunked_bound, b, chunk=4) for b in BOUNDS
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
  form = functools.partial(chunked.chunked_bound, bound, chunk=chunk)
  assert_same(form, functools.partial(plain, bound), *embeddings())


@pytest.mark.parametrize(
  'bound', [bounds.infonce, bounds.donsker_varadhan], ids=lambda b: b.__name__
)
def test_the_logarithm_holds_where_exponentials_would_overflow(bound):
  # Scores of standard deviation 2 * 60, when float32 ends at e^88.
  anchors, local = embeddings(scale=60.0)
  assert chunked.dot(anchors, local).max() > 150
  form = functools.partial(chunked.chunked_bound, bound, chunk=3)
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
    functools.partial(chunked.chunked_bound, bounds.donsker_varadhan, chunk=4)
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
    return chunked.chunked_bound(
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
  form = functools.partial(chunked.chunked_bound, bounds.infonce, chunk=64)
  assert compiled_bytes(form, 4096) < 512 * 2**20


def test_no_bound_keeps_more_than_some_chunks():
  images, locations = 256, 16
  scores = 4 * images**2 * locations

  def parts(anchors, local):
    return sum(
      chunked.chunked_bound(b, anchors, local, chunk=4) for b in BOUNDS[1:4]
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
  form = functools.partial(chunked.chunked_bound, bounds.infonce, chunk=3)
  result = value_and_gradients(form)(*jax.device_put((anchors, local), split))
  whole = value_and_gradients(functools.partial(plain, bounds.infonce))
  assert_close(result, whole(anchors, local))


def test_what_cannot_be_is_refused():
  anchors, local = embeddings()
  with pytest.raises(ValueError, match='chunk must be at least 1 anchor, got'):
    chunked.chunked_bound(bounds.jsd, anchors, local, chunk=0)
  with pytest.raises(ValueError, match='at least 2 images is needed'):
    chunked.chunked_bound(bounds.jsd, anchors, local[:1], chunk=2)
  with pytest.raises(ValueError, match='9 anchors for 5 images'):
    chunked.chunked_bound(bounds.jsd, anchors[:9], local, chunk=2)
