"""How long one Greedy InfoMax step takes, beside the same step in PyTorch.

  python -m experiments.benchmarks.gim_step --case=vision \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line. `--peer_python` is any interpreter that imports torch
(`pip install torch numpy`); by default this one. Cases:

  vision              ResNet-50's three modules, gray images of 64x64
  sound               the paper's six modules on 20,480 samples
  vision_small        `resnet_small`, color images of 32x32, 8x8 patches
  vision_patch_small  `patch_small`, gray images of 32x32, 16x16 patches
  sound_small         `sound_small` on 2,048 samples

All modules are trained at once. The first two are the paper's, with Adam,
negatives and windows of a step's own; PyTorch takes the steps of `torch_gim`.
The others have no peer.

  ours_s        one step inside of the scan that `fit` dispatches
  peer_s        PyTorch's with the authors' loss; ratio = peer_s / ours_s
  peer_lean_s   on sound, where it gathers only the negatives that it uses
  compile_s     compiling the scan

With `--memory` nothing is run: of ResNet-50 at `--batch_size`, the bytes that
XLA allocates beside arguments and results for the loss and its gradient:

  joint_bytes         all modules at once
  end_to_end_bytes    the same modules without isolation, one loss
  stored_bytes        each module alone, on stored outputs of those below
  frozen_bytes        each alone, with those below run without gradient
"""

import argparse
from typing import Any

from experiments.benchmarks import harness

SOUND = {'offsets': 12, 'negatives': 10, 'window': 128}
# Fields of the objective, the shape and dtype of an example, and a batch.
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], str, int]] = {
  'vision': ({'modules': 'resnet50'}, (64, 64, 1), 'uint8', 4),
  'sound': ({'modules': 'sound', **SOUND}, (20480,), 'int16', 4),
  'vision_small': (
    {'modules': 'resnet_small', 'patch_size': 8, 'patch_stride': 4},
    (32, 32, 3),
    'uint8',
    64,
  ),
  'vision_patch_small': (
    {'modules': 'patch_small', 'offsets': 1, 'negatives': None},
    (32, 32, 1),
    'uint8',
    128,
  ),
  'sound_small': (
    {'modules': 'sound_small', **SOUND, 'window': 32},
    (2048,),
    'int16',
    32,
  ),
}
PEERS = {
  'vision': {'peer': 'vision'},
  'sound': {'peer': 'sound', 'peer_lean': 'sound_lean'},
}


def examples(count: int, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
  """Returns images or sounds of noise, by the name that objectives know.

  Args:
    count: how many.
    shape: of one.
    dtype: 'uint8' of images, 'int16' of sounds.
  """
  import numpy as np

  limits = np.iinfo(dtype)
  kind = 'image' if dtype == 'uint8' else 'audio'
  return {
    kind: np.random.default_rng(0).integers(
      limits.min // 8, limits.max // 8, (count, *shape), dtype
    )
  }


def temporary_bytes(
  fields: dict[str, Any], batch_size: int, stored: tuple[int, ...] | None = None
) -> int:
  """What a loss and its gradient need beside arguments and results.

  Args:
    fields: of the objective, on gray images of 64x64.
    batch_size: N.
    stored: the shape of features [N, ...] to take in place of images.
  """
  import jax
  import jax.numpy as jnp

  from dim_jax.objectives import gim

  objective = gim.make(gim.Config(num_classes=0, **fields))
  key = jax.eval_shape(lambda: jax.random.key(0))
  batch = {'image': jax.ShapeDtypeStruct((batch_size, 64, 64, 1), jnp.uint8)}
  variables = jax.eval_shape(objective.init, key, batch)
  if stored is not None:
    shape = (batch_size, *stored)
    batch = {'features': jax.ShapeDtypeStruct(shape, jnp.float32)}
  gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  compiled = gradient.lower(*variables, batch, key).compile()
  memory: Any = compiled.memory_analysis()
  return memory.temp_size_in_bytes


def memory(args: argparse.Namespace) -> dict[str, Any]:
  """The fields of the JSON line with `--memory`.

  Args:
    args: the parsed flags.
  """
  entered = ((7, 7, 16, 16, 1), (7, 7, 16, 16, 256), (7, 7, 8, 8, 512))
  alone: list[dict[str, Any]] = [
    {'depth': i + 1, 'frozen': i} for i in range(3)
  ]
  size = args.batch_size
  joint = temporary_bytes({}, size)
  stored = [
    temporary_bytes(fields, size, shape)
    for fields, shape in zip(alone, entered, strict=True)
  ]
  import jax

  return {
    'name': 'gim_memory_resnet50',
    'joint_bytes': joint,
    'end_to_end_bytes': temporary_bytes({'stop_gradient_after': ()}, size),
    'stored_bytes': stored,
    'frozen_bytes': [temporary_bytes(fields, size) for fields in alone],
    'ratio_stored': [round(x / joint, 3) for x in stored],
    'batch_size': size,
    'device': jax.devices()[0].device_kind,
    'versions': {'ours': harness.versions()},
  }


def work(args: argparse.Namespace) -> None:
  """Answers every request with the seconds of a step."""
  from dim_jax.config import OptimizerConfig
  from dim_jax.objectives import gim

  fields, shape, dtype, _ = CASES[args.case]
  scan = harness.Scan(
    gim.make(gim.Config(num_classes=0, **fields)),
    examples(2 * args.batch_size, shape, dtype),
    args.batch_size,
    args.steps,
    optimizer=OptimizerConfig(learning_rate=2e-4, b1=0.9),
  )
  harness.serve(
    {
      'compile_s': scan.compile_s,
      'parameters': scan.parameters,
      'flops': scan.flops,
    },
    lambda _: scan.seconds(),
  )


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line."""
  if args.memory:
    return memory(args)
  machine = harness.machine(args.threads)
  commands = {'ours': harness.worker('gim_step', args, 'batch_size', 'case')}
  for name, case in PEERS.get(args.case, {}).items():
    peers = harness.torch_peers('torch_gim', args, 'batch_size')
    for form, command in peers.items():
      commands[form.replace('peer', name)] = [*command, f'--case={case}']
  with harness.working(commands, args.threads) as workers:
    seconds = harness.alternate(
      {name: (worker, args.steps) for name, worker in workers.items()},
      args.turns,
    )
    sides = harness.sides(workers, 'parameters')
    ready = workers['ours'].ready
  fields = harness.summary(seconds)
  return {
    'name': f'gim_{args.case}',
    **fields,
    **harness.rate(ready['flops'], fields['ours_s'], machine),
    'examples_per_s': round(args.batch_size / fields['ours_s'], 2),
    'steps': args.steps,
    'compile_s': round(ready['compile_s'], 2),
    'batch_size': args.batch_size,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, peer='torch', turns=5, steps=2)
  parser.add_argument('--case', choices=tuple(CASES), default='vision')
  parser.add_argument(
    '--batch_size', type=int, help='by default 4, 4, 64, 128 and 32'
  )
  parser.add_argument('--memory', action='store_true', help='of ResNet-50')
  args = parser.parse_args()
  if args.batch_size is None:
    args.batch_size = 32 if args.memory else CASES[args.case][-1]
  harness.run(args, compare, work)


if __name__ == '__main__':
  main()
