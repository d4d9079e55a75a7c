"""How long one Greedy InfoMax step takes, beside the same step in PyTorch.

  python -m experiments.benchmarks.gim_step --case=vision \
      --torch_python=/path/to/an/environment/bin/python

Prints one JSON line. `--torch_python` is any interpreter that imports torch
(`pip install torch numpy`); by default this one. Cases:

  vision              ResNet-50's three modules, gray images of 64x64
  sound               the paper's six modules on 20,480 samples
  vision_small        `resnet_small`, color images of 32x32, 8x8 patches
  vision_patch_small  `patch_small`, gray images of 32x32, 16x16 patches
  sound_small         `sound_small` on 2,048 samples

All modules are trained at once. The first two are the paper's, with Adam,
negatives and windows of a step's own; PyTorch takes the steps of `torch_gim`.
The others have no peer. Both sides run as processes of their own that wait for
their turn, so they alternate within one run and never compete; each has
`--threads` threads. Times are medians over turns, in seconds:

  ours_s        one step inside of the scan that `fit` dispatches
  peer_s        PyTorch's with the authors' loss; ratio = peer_s / ours_s
  peer_lean_s   on sound, where it gathers only the negatives that it uses
  compile_s     the first call of the scan less a later one

With `--memory` nothing is run: of ResNet-50 at `--batch_size`, the bytes that
XLA allocates beside arguments and results for the loss and its gradient:

  joint_bytes         all modules at once
  end_to_end_bytes    the same modules without walls, one loss
  stored_bytes        each module alone, on stored outputs of those below
  frozen_bytes        each alone, with those below run without gradient
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from typing import Any

from experiments.benchmarks import workers

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


class Ours:
  """Our step in a scan; made inside of the worker."""

  def __init__(self, args: argparse.Namespace) -> None:
    """Builds the objective, the optimizer and the data.

    Args:
      args: the parsed command line.
    """
    import jax
    import numpy as np

    from dim_jax.config import OptimizerConfig
    from dim_jax.objectives import gim
    from dim_jax.training import loop, parallel, step

    fields, shape, dtype, _ = CASES[args.case]
    objective = gim.make(gim.Config(num_classes=0, **fields))
    bounds = np.iinfo(dtype)
    self._batch_size = args.batch_size
    self._mesh = parallel.make_mesh(1)
    name = 'image' if dtype == 'uint8' else 'audio'
    data = {
      name: np.random.default_rng(0).integers(
        bounds.min // 8, bounds.max // 8, (2 * args.batch_size, *shape), dtype
      )
    }
    self._data = parallel.replicate(data, self._mesh)
    example: dict[str, Any] = {name: data[name][:2]}
    params, _ = jax.eval_shape(objective.init, jax.random.key(0), example)
    self.parameters = sum(x.size for x in jax.tree.leaves(params))
    optimizer = step.make_optimizer(
      OptimizerConfig(learning_rate=2e-4, b1=0.9), {}, params
    )
    init = jax.jit(
      lambda key: step.init_state(objective, optimizer, example, key)
    )
    self._state = parallel.replicate(init(jax.random.key(0)), self._mesh)
    self._chunk = loop.make_chunk(objective, optimizer, self._mesh)

  def seconds(self, steps: int) -> float:
    """Takes steps in one scan and returns the seconds of one.

    Args:
      steps: how many.
    """
    import jax
    import numpy as np

    from dim_jax.training import parallel

    indices = np.arange(steps * self._batch_size, dtype=np.int32)
    indices = indices.reshape(steps, -1) % (2 * self._batch_size)
    start = time.perf_counter()
    self._state, values = self._chunk(
      self._state, self._data, parallel.put_columns(indices, self._mesh)
    )
    jax.block_until_ready((self._state, values))
    return (time.perf_counter() - start) / steps


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
    args: the parsed command line.
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
    'end_to_end_bytes': temporary_bytes({'walls': ()}, size),
    'stored_bytes': stored,
    'frozen_bytes': [temporary_bytes(fields, size) for fields in alone],
    'ratio_stored': [round(x / joint, 3) for x in stored],
    'batch_size': size,
    'device': jax.devices()[0].device_kind,
    'versions': {'ours': _versions()},
  }


def _versions() -> dict[str, str]:
  found = {
    name: __import__(name).__version__ for name in ('jax', 'jaxlib', 'flax')
  }
  return found | {'python': platform.python_version()}


def work(args: argparse.Namespace) -> None:
  """The worker of our side: `STEPS` on a line, seconds a step back."""
  ours = Ours(args)
  first = args.steps * ours.seconds(args.steps)
  import jax

  ready = {
    'compile_s': first - args.steps * ours.seconds(args.steps),
    'device': jax.devices()[0].device_kind,
    'parameters': ours.parameters,
    'versions': _versions(),
  }
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    print(json.dumps(ours.seconds(int(line))), flush=True)


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Alternates the sides and returns the fields of the JSON line.

  Args:
    args: the parsed command line.
  """
  sizes = [f'--batch_size={args.batch_size}', f'--threads={args.threads}']
  commands = {
    'ours': [
      *(sys.executable, '-m', 'experiments.benchmarks.gim_step', *sizes),
      *(f'--case={args.case}', f'--steps={args.steps}', '--work'),
    ]
  }
  for name, case in PEERS.get(args.case, {}).items():
    commands[name] = [
      *(args.torch_python, 'experiments/benchmarks/torch_gim.py', *sizes),
      f'--case={case}',
    ]
  environment = {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(args.threads)}
  load = os.getloadavg()[0]
  times: dict[str, list[float]] = {name: [] for name in commands}
  with contextlib.ExitStack() as stack:
    sides = {
      name: stack.enter_context(workers.working(command, environment))
      for name, command in commands.items()
    }
    for _ in range(args.turns):
      for name, side in sides.items():
        times[name].append(side.ask(args.steps))
    ready = {name: side.ready for name, side in sides.items()}
  median = {name: statistics.median(values) for name, values in times.items()}
  ratios = {
    name.replace('peer', 'ratio'): round(value / median['ours'], 3)
    for name, value in median.items()
    if name != 'ours'
  }
  return {
    'name': f'gim_{args.case}',
    **{f'{name}_s': round(value, 4) for name, value in median.items()},
    **ratios,
    'examples_per_s': round(args.batch_size / median['ours'], 2),
    'spread': {
      f'{name}_s': [round(min(values), 4), round(max(values), 4)]
      for name, values in times.items()
    },
    'turns': args.turns,
    'steps': args.steps,
    'compile_s': round(ready['ours']['compile_s'], 2),
    'batch_size': args.batch_size,
    'parameters': {name: x['parameters'] for name, x in ready.items()},
    'machine': workers.machine(args.threads, load),
    'versions': {name: x['versions'] for name, x in ready.items()},
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--case', choices=tuple(CASES), default='vision')
  parser.add_argument('--torch_python', default=sys.executable)
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--steps', type=int, default=2, help='steps a turn')
  parser.add_argument(
    '--batch_size', type=int, help='by default 4, 4, 64, 128 and 32'
  )
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--memory', action='store_true', help='of ResNet-50')
  parser.add_argument('--work', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.batch_size is None:
    args.batch_size = 32 if args.memory else CASES[args.case][-1]
  if args.work:
    workers.pin(args.threads)
    work(args)
  else:
    print(json.dumps(memory(args) if args.memory else compare(args)))


if __name__ == '__main__':
  main()
