"""SimCLR in stable-pretraining's JAX trainer, for `simclr_step`.

Needs stable-pretraining with its extra `jax`. The network, its loss and the
mirror images are those of `simclr_step`.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import stable_pretraining.jax as spj
from flax import nnx

WIDTHS = (16, 32, 64)


class Unit(nnx.Module):
  """A convolution and batch normalisation."""

  def __init__(
    self, inputs: int, features: int, size: int, strides: int, rngs: nnx.Rngs
  ) -> None:
    self.conv = nnx.Conv(
      inputs,
      features,
      (size, size),
      strides,
      padding=[(size // 2, size // 2)] * 2,
      use_bias=False,
      rngs=rngs,
    )
    self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, H', W', D] for `x` [N, H, W, C]."""
    return self.norm(self.conv(x))


class Backbone(nnx.Module):
  """A residual block for each width, and a mean over positions."""

  def __init__(self, rngs: nnx.Rngs) -> None:
    self.stem = Unit(3, WIDTHS[0], 3, 1, rngs)
    inputs, blocks = (WIDTHS[0], *WIDTHS[:-1]), []
    for i, (before, width) in enumerate(zip(inputs, WIDTHS, strict=True)):
      strides = 1 if i == 0 else 2
      block = {
        'a': Unit(before, width, 3, strides, rngs),
        'b': Unit(width, width, 3, 1, rngs),
      }
      if strides > 1:
        block['shortcut'] = Unit(before, width, 1, strides, rngs)
      blocks.append(nnx.Dict(block))
    self.blocks = nnx.List(blocks)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, D] for images [N, H, W, C]."""
    x = jax.nn.relu(self.stem(x))
    for block in self.blocks:
      y = block['b'](jax.nn.relu(block['a'](x)))
      x = jax.nn.relu((block['shortcut'](x) if 'shortcut' in block else x) + y)
    return x.mean((1, 2))


class Projection(nnx.Module):
  """Two linear maps with a ReLU between them."""

  def __init__(self, rngs: nnx.Rngs) -> None:
    self.hidden = nnx.Linear(WIDTHS[-1], 128, rngs=rngs)
    self.out = nnx.Linear(128, 64, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N, 64] for `x` [N, D]."""
    return self.out(jax.nn.relu(self.hidden(x)))


def mirror(module: Any, batch: Any) -> Any:
  """Adds the two views, as the trainer's on-device transforms do."""
  del module
  images = batch['image'].astype(jnp.float32) / 127.5 - 1
  return {'views': [{'image': images}, {'image': images[:, :, ::-1]}]}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--threads', type=int, default=2)
  args = parser.parse_args()
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  rngs = nnx.Rngs(0)
  module = spj.Module(
    forward=spj.forward.simclr,
    optim=optax.adam(1e-4, b1=0.5),
    transform=mirror,
    backbone=Backbone(rngs),
    projector=Projection(rngs),
    simclr_loss=spj.losses.NTXEntLoss(temperature=0.5),
  )
  shape = (2, args.batch_size, 32, 32, 3)
  images = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
  batches = [{'image': jax.device_put(x)} for x in images]
  marks: list[float] = []

  class Clock(spj.Callback):
    """Notes when steps end, so that the set-up of `fit` is not counted."""

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
      jax.block_until_ready(nnx.state(module))
      marks.append(time.perf_counter())

  def seconds(steps: int) -> float:
    marks.clear()
    trainer = spj.Trainer(max_epochs=1, callbacks=[Clock()])
    loader = (batches[i % 2] for i in range(steps + 1))
    trainer.fit(module, loader)
    return (marks[-1] - marks[0]) / steps

  seconds(2)
  parameters = jax.tree.leaves(nnx.state(module, nnx.Param))
  ready = {
    'parameters': sum(x.size for x in parameters),
    'versions': {
      'stable-pretraining': importlib.metadata.version('stable-pretraining'),
      'jax': jax.__version__,
      'python': platform.python_version(),
    },
  }
  print(json.dumps(ready), flush=True)
  for _ in sys.stdin:
    print(json.dumps(seconds(args.steps)), flush=True)


if __name__ == '__main__':
  main()
