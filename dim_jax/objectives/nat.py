r"""Noise as targets: codes spread over the sphere, each at a target of its own.

Targets are drawn uniformly on the unit sphere, one a training example, and stay
as they are; the codes f, normalised, are brought to them,

.. math:: \frac{1}{N} \sum_i \|f(x_i) - t_{a(i)}\|^2 .

In each step the batch's own targets are assigned to its images anew, such that
the loss is least: a linear assignment problem. So `a` stays a permutation of
all targets. The step begins from the one that the last steps left, which is in
the model state, int32 [targets]; under `pmap` it is of the global batch, and
the same on every device.

The assignment is part of the compiled step, by Optax's Hungarian algorithm, and
so runs wherever the step does. Measured on one core of an AMD EPYC, codes of
64 units: 1 to 2 ms for 64 images and 29 to 69 ms for 256, more where codes are
alike, and 1.2 s to compile it. SciPy's by a callback to the host took 0.4 to
0.5 and 5 to 11 ms, but a program with a callback cannot be kept on disk
(`training.parallel.cache_compilations`). The time grows with the cube of the
batch: on an accelerator, take small ones.

A small set needs augmentation, or the encoder learns every target by heart. Of
scikit-learn's 1,294 digits, small32, 500 steps of 64, a linear probe with 5
labels per class reads from the code 34.5 % of images as they are and 85.7 % of
randomly cropped ones (`data.crop_padding=4`); untrained it is 82.8 %.

The metrics: 'nat/distance', the squared distance of code and target, in [0, 4],
averaged over the batch, after the assignment; 'nat/moved', the fraction of its
images whose target is another than before; and those of the online probe,
'probe/NAME_loss' in nats and 'probe/NAME_accuracy'.

Bojanowski and Joulin, Unsupervised learning by predicting noise, ICML 2017.
https://arxiv.org/abs/1704.05310
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dim_jax import random
from dim_jax.checks import check_fields
from dim_jax.losses import priors
from dim_jax.objective import Metrics, Objective, PyTree
from dim_jax.objectives import (
  encoder_and_terms,
  image_encoder,
  sharded_batch,
)
from dim_jax.objectives.terms import classifiers
from dim_jax.objectives.terms.term import Inputs, Term

_CODE = 'y'


@dataclasses.dataclass(kw_only=True)
class Config:
  """Noise as targets (Bojanowski and Joulin 2017), with DIM's encoder."""

  encoder: str | Any = 'basic32'
  """A name of `networks.encoders.ENCODERS`, or a Flax module that maps images
  [N, H, W, C] and `train` to a dictionary of features with 'y', or to one
  array, 'y'."""
  code: int = 64
  """Size of the code Y of a named encoder, which is a target's too."""
  norm: str = 'batch'
  """The normalisation of a named encoder: 'batch', 'layer' or 'group'."""
  targets: int = 50_000
  """How many there are: at least one a training example. Those beyond have no
  part in anything."""
  dtype: str = 'float32'
  """Compute dtype of the encoder, 'float32' or 'bfloat16'; parameters and the
  loss stay float32."""
  num_classes: int = 10
  """Classes of the online probe, a linear layer on every feature of
  `probe_features` that sends no gradient back; 0 for none. Labels must be below
  it; those of -1 are left out."""
  probe_features: tuple[str, ...] = classifiers.PROBED
  """The features that online probes read."""


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  image_encoder.check(config)
  check_fields(config, {'targets': 'int [1, 2**31)'}, 'objective.')


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes noise as targets as an objective.

  Batches have 'index', int32 [N], below `config.targets`.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over; the assignment is
      then of the global batch.

  Returns:
    The objective, over the groups 'encoder' and 'probe'. It encodes to the
    encoder's features; the code there is not normalised.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  terms = [_make_term(config.targets, axis_name)]
  terms += classifiers.make_probes(config, axis_name)
  return encoder_and_terms.make(
    functools.partial(image_encoder.of_config, config),
    terms,
    code=_CODE,
    axis_name=axis_name,
    classes=config.num_classes,
    optional_groups=('probe',),
    indexed=True,
    check_size=functools.partial(_check_size, config.targets),
  )


def targets(numbers: jax.Array, size: int) -> jax.Array:
  """Draws targets uniformly on the unit sphere, always the same.

  They are drawn again when they are needed: 1.3 million of 64 units would take
  328 MB of each checkpoint.

  Args:
    numbers: which of them, int32 [n].
    size: K, of the code.

  Returns:
    Float32 [n, K].
  """
  key = random.branch(jax.random.key(0), random.OfSeed.TARGETS)

  def draw(number: jax.Array) -> jax.Array:
    rng = random.branch(key, number)
    return priors.sample_prior(rng, 'sphere', (1, size))[0]

  return jax.vmap(draw)(numbers)


def assign(codes: jax.Array, vectors: jax.Array, index: jax.Array) -> jax.Array:
  """Solves the assignment problem of a batch.

  Args:
    codes: on the unit sphere, [N, K].
    vectors: the targets of the examples, [N, K].
    index: which example each row is, int32 [N]. Where one is there twice, the
      first row stands for it, and its others follow.

  Returns:
    For each row the row whose target it takes, int32 [N]: a permutation of the
    first rows, such that the sum of squared distances over them is least.
  """
  rows = jnp.arange(len(index))
  first = jnp.argmax(index[:, None] == index[None, :], axis=1)
  # Of unit vectors, the squared distance is 2 less twice the product.
  cost = -jnp.matmul(codes, vectors.T, precision='highest')
  # The algorithm would never end on NaN; the loss says what is wrong.
  cost = jnp.nan_to_num(cost, nan=0.0, posinf=0.0, neginf=0.0)
  # A row that stands for nothing keeps its own place: costs are at most 1, so
  # that any exchange that took it to another would be dearer.
  repeated = first != rows
  kept = jnp.where(jnp.eye(len(index), dtype=bool), 0.0, 2.0)
  cost = jnp.where(repeated[:, None] | repeated[None, :], kept, cost)
  assigned, columns = optax.assignment.hungarian_algorithm(cost)
  columns = jnp.zeros_like(index).at[assigned].set(columns.astype(index.dtype))
  return columns[first]


def _make_term(count: int, axis_name: str | None) -> Term:
  """The loss, whose state is the number of each example's target."""

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    # The targets are the same with every seed; which example has which is not.
    rng = random.branch(rng, random.OfParameters.ASSIGNMENT)
    numbers = jnp.arange(count, dtype=jnp.int32)
    assignment = jax.random.permutation(rng, numbers)
    return {}, {'nat': {'assignment': assignment}}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    if inputs.number is None:
      raise ValueError(
        "noise as targets needs batch['index'], int32 [N], which of the "
        'training examples each image is: add it to your batches, as '
        '`dim_jax.train` does.'
      )
    codes = inputs.features[_CODE].astype(jnp.float32)
    codes = codes.reshape(len(codes), -1)
    codes = sharded_batch.gather(_normalised(codes), axis_name)
    index = sharded_batch.gather(inputs.number, axis_name)
    assignment = model_state['nat']['assignment']
    before = assignment[index]
    vectors = targets(before, codes.shape[1])
    rows = assign(jax.lax.stop_gradient(codes), vectors, index)
    after = before[rows]
    distance = jnp.square(codes - vectors[rows]).sum(1).mean()
    metrics = {
      'nat/distance': distance,
      'nat/moved': (after != before).mean(dtype=jnp.float32),
    }
    assignment = assignment.at[index].set(after)
    return distance, metrics, {'nat': {'assignment': assignment}}

  return Term(init, loss)


def _normalised(x: jax.Array) -> jax.Array:
  """Rows on the unit sphere; one of zeros stays, with a gradient of 0."""
  square = jnp.square(x).sum(1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def _check_size(count: int, examples: int) -> None:
  if examples > count:
    raise ValueError(
      f'objective.targets={count} is fewer than the {examples:,} examples to '
      'train on, each of which needs a target: set '
      f'--config.objective.targets={examples}.'
    )
