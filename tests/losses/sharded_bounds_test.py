"""Bounds over devices against loops over groups, and what they exchange."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dim_jax.losses import bounds, sharded_bounds
from dim_jax.objectives.terms import mutual_information
from dim_jax.training import parallel
from tests import small

if len(jax.devices()) < 8:
  pytest.skip('needs 8 devices', allow_module_level=True)

LOCATIONS, SIZE = 3, 4
ALL = tuple(mutual_information.BOUNDS.values())
# One that joins for each anchor, one for all of them, and one mean.
SOME = (bounds.infonce, bounds.donsker_varadhan, bounds.nwj)


def embeddings(images, globals_):
  rng = np.random.default_rng(0)
  anchors = rng.normal(size=(images * globals_, SIZE))
  local = rng.normal(size=(images, LOCATIONS, SIZE))
  return jnp.asarray(anchors, jnp.float32), jnp.asarray(local, jnp.float32)


def spread(bound, **options):
  """The bound of a batch, on eight devices."""
  return jax.shard_map(
    functools.partial(
      sharded_bounds.bound_of_pairs, bound, axis_name='data', **options
    ),
    mesh=parallel.make_mesh(8),
    in_specs=PartitionSpec('data'),
    out_specs=PartitionSpec(),
    check_vma=False,
  )


def loop(bound, size, anchors, local):
  """The mean over groups of the bound of all their scores."""
  count = len(local) // size
  values = []
  for group, maps in zip(
    jnp.split(anchors, count), jnp.split(local, count), strict=True
  ):
    scores = jnp.einsum('ak,jlk->ajl', group, maps)
    positive, negative, where = bounds.split_pairs(scores)
    values.append(bound(positive, negative, where=where))
  return sum(values) / count


def assert_close(result, expected):
  np.testing.assert_allclose(result[0], expected[0], rtol=1e-5, atol=1e-5)
  for gradient, slope in zip(result[1], expected[1], strict=True):
    scale = np.abs(slope).max()
    assert scale > 1e-4
    np.testing.assert_allclose(
      np.asarray(gradient) / scale, slope / scale, atol=1e-5
    )


@pytest.mark.parametrize(
  ('of', 'images', 'globals_', 'size', 'chunk'),
  [
    # All negatives: all scores at once.
    (ALL, 2, 1, None, None),
    # Some anchors at a time, 7 of 24, several of an image; and one image on a
    # device, which then has no negatives for it.
    (SOME, 1, 3, None, 7),
    # Of two devices, of one, and of half a one.
    (SOME, 2, 1, 4, None),
    (SOME, 4, 1, 2, None),
    (SOME[:1], 2, 2, 2, 3),
  ],
  ids=['all', 'chunks', 'two-devices', 'half-a-device', 'one-device'],
)
def test_value_and_gradients_are_those_of_a_loop_over_groups(
  of, images, globals_, size, chunk
):
  inputs = embeddings(8 * images, globals_)

  # One program: a compilation takes longer than all else here.
  @jax.jit
  def run(*inputs):
    return [
      [
        jax.value_and_grad(form, (0, 1))(*inputs)
        for form in (
          spread(bound, size=size, chunk=chunk),
          functools.partial(loop, bound, size or 8 * images),
        )
      ]
      for bound in of
    ]

  for result, expected in run(*inputs):
    assert_close(result, expected)


@pytest.mark.parametrize('bound', SOME)
def test_more_negatives_than_int32_counts(bound):
  # 16 anchors with 8 times 400 million negatives each: 51 billion in all. All
  # scores are 0, of which infonce and donsker_varadhan are 0 and nwj -1 / e.
  count, own, span = 400_000_000, 2, 8
  of_device = {
    bounds.infonce: math.log(count),
    bounds.donsker_varadhan: math.log(count),
    bounds.nwj: -math.exp(-1),
  }[bound]

  def value(positive):
    return sharded_bounds._value(
      bound,
      positive,
      jnp.full(span * own, of_device),
      jnp.full(span * own, count, jnp.int32),
      'data',
      None,
      span,
    )

  run = jax.shard_map(
    value,
    mesh=parallel.make_mesh(8),
    in_specs=PartitionSpec('data'),
    out_specs=PartitionSpec(),
    check_vma=False,
  )
  expected = -math.exp(-1) if bound is bounds.nwj else 0
  np.testing.assert_allclose(
    run(jnp.zeros((span * own, 1))), expected, atol=1e-5
  )


def test_log_sums_are_joined_where_exponentials_would_overflow():
  anchors, local = embeddings(16, 1)
  anchors *= 60  # float32 ends at e^88.
  result = jax.jit(spread(bounds.infonce))(anchors, local)
  expected = loop(bounds.infonce, 16, anchors, local)
  assert jnp.einsum('ak,jlk->ajl', anchors, local).max() > 150
  np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('size', 'chunk', 'gathered'),
  [(None, None, 16), (None, 4, 16), (4, 4, 4), (2, None, 0)],
)
def test_devices_exchange_globals_alone_and_nothing_in_a_loop(
  size, chunk, gathered
):
  """Read in the compiled program: 16 images of 3 locations on 8 devices."""
  form = jax.value_and_grad(
    spread(bounds.infonce, size=size, chunk=chunk), (0, 1)
  )
  text = jax.jit(form).lower(*embeddings(16, 1)).compile().as_text()
  found = small.collectives(text)
  assert not [name for name, _, in_loop in found if in_loop]
  rows = {
    name: shapes[0][0]
    for name, shapes, _ in found
    if shapes[0][-1:] == (SIZE,) and len(shapes[0]) > 1
  }
  # Anchors of the group come, and their gradient goes back to 2 on a device.
  expected = {'all-gather': gathered, 'reduce-scatter': 2} if gathered else {}
  assert rows == expected
  if not gathered:
    assert {name for name, _, _ in found} == {'all-reduce'}


@pytest.mark.parametrize('size', [3, 6, 12, 64])
def test_groups_that_do_not_fit_are_named_with_all_numbers(size):
  with pytest.raises(
    ValueError,
    match=f'groups of {size} .*batch of 32 on 8 devices, 4 examples on each',
  ):
    jax.eval_shape(spread(bounds.infonce, size=size), *embeddings(32, 1))
