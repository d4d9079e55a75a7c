"""The streams: their recorded numbers, and that they are apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import random
from dim_jax.data import batches

KEY = jax.random.key(0)

# `jax.random.key_data` of branches of `jax.random.key(0)`, as recorded when
# each number still stood where it was used.
RECORDED = [
  ('OfSeed.PARAMETERS', [1797259609, 2579123966]),
  ('OfSeed.STEPS', [928981903, 3453687069]),
  ('OfSeed.STORED_VIEWS', [844240965, 2082719024]),
  ('OfSeed.TARGETS', [476724722, 470870626]),
  ('OfRun.AUGMENTATION', [743310391, 3789761811]),
  ('OfStep.MODULE_DROPOUT', [917456828, 636652529]),
  ('OfStep.COORDINATES', [2313591868, 3981651893]),
  ('OfStep.DROPOUT', [844240965, 2082719024]),
  ('OfStep.MASK', [743310391, 3789761811]),
  ('OfParameters.SPECTRAL_VECTORS', [1797259609, 2579123966]),
  ('OfParameters.DECODER', [928981903, 3453687069]),
  ('OfParameters.ASSIGNMENT', [844240965, 2082719024]),
  ('OfParameters.MASK_TOKEN', [743310391, 3789761811]),
  ('OfPrior.PENALTY', [4146024105, 2718843009]),
  ('OfProbe.PARAMETERS', [3380239599, 3343201961]),
  ('OfExample.FLIP', [1797259609, 2579123966]),
  ('OfExample.CROP', [928981903, 3453687069]),
  ('OfExample.WINDOW', [4146024105, 2718843009]),
  ('OfExample.RESIZED', [2467461003, 3840466878]),
  ('OfExample.JITTER', [2285895361, 433833334]),
  ('OfExample.GRAYSCALE', [1524306142, 1887795613]),
  ('OfExample.BLUR', [3792494674, 2909014575]),
]

# Of how many branches a method splits a key into at most, by parent.
LOW = {random.OfRun: 2**31, random.OfStep: 2**31, random.OfProbe: 2**31 - 1}


def test_some_are_of_all_places_and_the_same_ones_again():
  rows = random.some(1000, 10_000)
  np.testing.assert_array_equal(rows, random.some(1000, 10_000))
  assert len(set(rows)) == 1000 and np.all(np.diff(rows) > 0)
  # Of each tenth of the positions about 100, a deviation of 9.
  assert np.all(np.abs(np.bincount(rows // 1000) - 100) < 40)
  np.testing.assert_array_equal(random.some(9, 5), range(5))


@pytest.mark.parametrize(('name', 'expected'), RECORDED)
def test_branches_keep_their_recorded_values(name, expected):
  parent, _, member = name.partition('.')
  number = getattr(random, parent)[member]
  key = jax.random.key_data(random.branch(KEY, number))
  np.testing.assert_array_equal(key, np.array(expected, np.uint32))


def test_a_traced_number_gives_the_same_branch():
  step = jnp.int32(7)
  np.testing.assert_array_equal(
    jax.random.key_data(jax.jit(random.branch)(KEY, step)),
    jax.random.key_data(random.branch(KEY, 7)),
  )


@pytest.mark.parametrize(
  'parent',
  [
    random.OfSeed,
    random.OfRun,
    random.OfStep,
    random.OfParameters,
    random.OfPrior,
    random.OfExample,
    random.OfProbe,
  ],
)
def test_no_two_streams_of_a_key_collide(parent):
  numbers = [int(member) for member in parent.__members__.values()]
  assert len(set(numbers)) == len(numbers)
  # Steps, micro-batches, modules and splits count from 0.
  assert min(numbers) >= LOW.get(parent, 0)
  keys = [jax.random.key_data(random.branch(KEY, n)) for n in numbers]
  assert len({tuple(np.asarray(key)) for key in keys}) == len(keys)


def test_dropout_of_no_module_meets_another_stream():
  others = {int(n) for n in random.OfStep} - {int(random.OfStep.MODULE_DROPOUT)}
  assert min(others) - random.OfStep.MODULE_DROPOUT > 2**30


def test_splits_are_the_low_branches():
  # What the docstrings say of shared branches rests on this.
  splits = jax.random.split(KEY, 2)
  for number in random.OfSeed.PARAMETERS, random.OfSeed.STEPS:
    np.testing.assert_array_equal(
      jax.random.key_data(random.branch(KEY, number)),
      jax.random.key_data(splits[number]),
    )


def test_host_streams_that_share_a_key_are_those_that_are_documented():
  shared = {}
  for name, stream in random.Host.__members__.items():
    shared.setdefault(int(stream), set()).add(name)
  assert [names for names in shared.values() if len(names) > 1] == [
    {'EPOCH', 'VALIDATION', 'TRAIN_POINTS'},
    {'TEST', 'TEST_POINTS'},
  ]
  # No run is so long that its epochs come there.
  assert random.Host.FOLDER > random.Host.LABELS >= 2**63


@pytest.mark.parametrize(
  ('seed', 'stream', 'expected'),
  [
    (0, random.Host.VALIDATION, [0, 2, 1, 5, 4, 3, 6, 7]),
    (0, random.Host.TEST, [5, 3, 7, 2, 4, 1, 0, 6]),
    (7, random.Host.EPOCH, [4, 1, 6, 3, 2, 7, 5, 0]),
    (7, random.Host.TRAIN_POINTS, [4, 1, 6, 3, 2, 7, 5, 0]),
    (7, random.Host.TEST_POINTS, [3, 1, 6, 2, 5, 4, 0, 7]),
    (7, random.Host.LABELS, [6, 5, 2, 7, 1, 3, 4, 0]),
    (0, random.Host.FOLDER, [2, 7, 0, 5, 3, 6, 1, 4]),
  ],
)
def test_host_streams_keep_their_recorded_orders(seed, stream, expected):
  assert random.order(seed, stream, 8).tolist() == expected


def test_epochs_are_ordered_by_their_stream():
  np.testing.assert_array_equal(
    batches.permutation(3, 5, 8), random.order(3, random.Host.EPOCH + 5, 8)
  )
