r"""A step of the loop of `fit`, beside the JAX trainer of stable-pretraining.

  python -m experiments.benchmarks.simclr_step \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. Both train the same network with the same loss, and with
Adam: SimCLR's InfoNCE between an image and its mirror image, 32x32, with a
small ResNet. Ours takes its steps inside of the scan of `fit`, on images that
the device holds. Theirs, from the extra `jax` of stable-pretraining, dispatches
each step, on batches that are on the device before the clock starts, and reads
its metrics after each.

Fields:
  ours_s, peer_s   seconds a step
  ratio            peer_s / ours_s
  examples_per_s   images a second, by side
"""

import argparse
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dim_jax.networks import layers
from dim_jax.objective import Objective
from experiments.benchmarks import harness

WIDTHS = (16, 32, 64)
TEMPERATURE = 0.5


class Network(nn.Module):
  """A residual block for each width, a mean over positions, a projection."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, 64] for images [N, H, W, C]."""
    x = nn.relu(self._conv(x, WIDTHS[0], 3, 1, 'stem'))
    for i, width in enumerate(WIDTHS):
      strides = 1 if i == 0 else 2
      y = nn.relu(self._conv(x, width, 3, strides, f'block_{i}_a'))
      y = self._conv(y, width, 3, 1, f'block_{i}_b')
      if strides > 1:
        x = self._conv(x, width, 1, strides, f'block_{i}_shortcut')
      x = nn.relu(x + y)
    x = nn.relu(layers.Dense(128)(x.mean((1, 2))))
    return layers.Dense(64)(x)

  def _conv(
    self, x: jax.Array, features: int, size: int, strides: int, name: str
  ) -> jax.Array:
    x = layers.Conv(features, size, strides, size // 2, name=name)(x)
    return layers.normalise(x, train=True, name=f'{name}_norm')


def nt_xent(z: jax.Array) -> jax.Array:
  """Returns the contrastive loss in nats of views [2N, D], first and second."""
  z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
  count = len(z)
  scores = jnp.where(
    jnp.eye(count, dtype=bool), -jnp.inf, z @ z.T / TEMPERATURE
  )
  partners = jnp.roll(jnp.arange(count), count // 2)
  return optax.softmax_cross_entropy_with_integer_labels(
    scores, partners
  ).mean()


def make_objective() -> Objective:
  """Makes SimCLR's loss of an image and its mirror image."""
  network = Network()

  def views(batch: Mapping[str, jax.Array]) -> jax.Array:
    images = layers.normalise_images(batch['image'])
    return jnp.concatenate([images, images[:, :, ::-1]])

  def init(rng: jax.Array, batch: Any) -> Any:
    variables = network.init(rng, views(batch))
    state = {'encoder': variables['batch_stats']}
    return {'encoder': variables['params']}, state

  def loss(params: Any, model_state: Any, batch: Any, rng: jax.Array) -> Any:
    del rng
    variables = {
      'params': params['encoder'],
      'batch_stats': model_state['encoder'],
    }
    z, state = network.apply(variables, views(batch), mutable='batch_stats')
    value = nt_xent(z)
    metrics = {'encoder/loss': value}
    return value, (metrics, {'encoder': state['batch_stats']})

  return Objective(init=init, loss=loss, encode=lambda *_: {})


def work(args: argparse.Namespace) -> None:
  """Answers every request with the seconds of a step."""
  from experiments.benchmarks import gim_step

  examples = gim_step.examples(2 * args.batch_size, (32, 32, 3), 'uint8')
  scan = harness.Scan(make_objective(), examples, args.batch_size, args.steps)
  ready = {
    'compile_s': scan.compile_s,
    'parameters': scan.parameters,
    'flops': scan.flops,
  }
  harness.serve(ready, lambda _: scan.seconds())


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line."""
  machine = harness.machine(args.threads)
  peer = harness.peer('stable_pretraining_simclr', args, 'batch_size', 'steps')
  commands = {
    'ours': harness.worker('simclr_step', args, 'batch_size'),
    'peer': peer,
  }
  with harness.working(commands, args.threads) as workers:
    seconds = harness.alternate(
      {name: (worker, args.steps) for name, worker in workers.items()},
      args.turns,
    )
    sides = harness.sides(workers, 'parameters')
    ready = workers['ours'].ready
  fields = harness.summary(seconds)
  return {
    'name': 'simclr_resnet_32',
    **fields,
    **harness.rate(ready['flops'], fields['ours_s'], machine),
    'examples_per_s': {
      side: round(args.batch_size / fields[f'{side}_s'], 1) for side in seconds
    },
    'steps': args.steps,
    'compile_s': round(ready['compile_s'], 2),
    'batch_size': args.batch_size,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(
    __doc__, peer='stable_pretraining.jax', turns=5, steps=20
  )
  parser.add_argument('--batch_size', type=int, default=128)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
