"""What all benchmarks share: processes that take turns, and our step in a scan.

The sides of a comparison are processes of their own that wait for their turn,
so that they alternate within one run and never compete. Times are medians over
turns, in seconds a step.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Worker:
  """A process that takes steps when asked."""

  def __init__(
    self, command: Sequence[str], environment: Mapping[str, str]
  ) -> None:
    """Starts the process and waits until it has warmed up.

    Args:
      command: what to run.
      environment: what to set beside this process's own environment.
    """
    self._process = subprocess.Popen(
      list(command),
      cwd=ROOT,
      env={**os.environ, **environment},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.ready = self._answer()

  def _answer(self) -> Any:
    line = self._process.stdout.readline() if self._process.stdout else ''
    if not line:
      command = ' '.join(str(a) for a in self._process.args)  # type: ignore[union-attr]
      sys.exit(f'Error: {command!r} ended with status {self._process.wait()}.')
    return json.loads(line)

  def ask(self, request: object) -> Any:
    """Sends one line and returns the answer to it."""
    if self._process.stdin:
      print(request, file=self._process.stdin, flush=True)
    return self._answer()

  def stop(self) -> None:
    """Lets the process end."""
    # Popen's own end of a block closes the pipes and waits.
    with self._process:
      pass


@contextlib.contextmanager
def working(
  commands: Mapping[str, Sequence[str]], threads: int
) -> Iterator[dict[str, Worker]]:
  """Starts workers on the CPU that end with the block.

  Args:
    commands: of each side, by name.
    threads: of each.
  """
  environment = {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(threads)}
  with contextlib.ExitStack() as stack:
    workers = {}
    for name, command in commands.items():
      workers[name] = Worker(command, environment)
      stack.callback(workers[name].stop)
    yield workers


def alternate(
  requests: Mapping[str, tuple[Worker, object]], turns: int
) -> dict[str, list[float]]:
  """Asks in turn, and returns the seconds of each request by its name.

  Args:
    requests: whom to ask for what.
    turns: how often.
  """
  seconds: dict[str, list[float]] = {name: [] for name in requests}
  for _ in range(turns):
    for name, (worker, request) in requests.items():
      seconds[name].append(worker.ask(request))
  return seconds


def summary(
  seconds: Mapping[str, Sequence[float]], digits: int = 4
) -> dict[str, Any]:
  """Summarises turns as fields of a JSON line.

  Args:
    seconds: by side; 'ours' is what those called 'peer...' are compared with.
    digits: of seconds.

  Returns:
    'NAME_s', a median; 'ratio...' for 'peer...', the peer's median over ours;
    'range', the least and most of each.
  """
  median = {name: statistics.median(values) for name, values in seconds.items()}
  return {
    **{f'{name}_s': round(value, digits) for name, value in median.items()},
    **{
      name.replace('peer', 'ratio'): round(value / median['ours'], 3)
      for name, value in median.items()
      if name.startswith('peer')
    },
    'range': {
      f'{name}_s': [round(min(values), digits), round(max(values), digits)]
      for name, values in seconds.items()
    },
    'turns': max(map(len, seconds.values())),
  }


def sides(workers: Mapping[str, Worker], *fields: str) -> dict[str, Any]:
  """Returns fields that workers sent when they were ready, by side."""
  return {
    field: {name: worker.ready.get(field) for name, worker in workers.items()}
    for field in ('versions', *fields)
  }


def serve(ready: Mapping[str, Any], answer: Callable[[str], Any]) -> None:
  """Works for the process that compares, until it closes the line.

  Args:
    ready: what to send first, beside device and versions.
    answer: returns what a request, one line, is answered with.
  """
  import jax

  device = jax.devices()[0].device_kind
  ready = {**ready, 'device': device, 'versions': versions()}
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    print(json.dumps(answer(line.strip())), flush=True)


def versions() -> dict[str, str]:
  """Returns the versions of Python and of what computes."""
  packages = {
    name: __import__(name).__version__ for name in ('jax', 'jaxlib', 'flax')
  }
  return packages | {'python': platform.python_version()}


class Scan:
  """Our training step inside of the scan that `fit` dispatches."""

  def __init__(
    self,
    objective: Any,
    examples: Mapping[str, Any],
    batch_size: int,
    steps: int,
    *,
    optimizer: Any = None,
    average: float | None = None,
  ) -> None:
    """Compiles the scan.

    Args:
      objective: the method.
      examples: the data set, arrays by name.
      batch_size: N.
      steps: of a scan.
      optimizer: an `OptimizerConfig`; its defaults if None.
      average: decay of the moving average of parameters.
    """
    import jax
    import numpy as np

    from dim_jax.config import OptimizerConfig
    from dim_jax.training import loop, parallel, step

    mesh, self._steps = parallel.make_mesh(1), steps
    few: Any = {name: values[:2] for name, values in examples.items()}
    params, _ = jax.eval_shape(objective.init, jax.random.key(0), few)
    self.parameters = sum(x.size for x in jax.tree.leaves(params))
    self.optimizer = step.make_optimizer(
      optimizer or OptimizerConfig(), {}, params, average
    )
    init = jax.jit(
      lambda key: step.init_state(objective, self.optimizer, few, key)
    )
    self.state = parallel.replicate(init(jax.random.key(0)), mesh)
    self._data = parallel.replicate(dict(examples), mesh)
    rows = np.arange(steps * batch_size, dtype=np.int32)
    rows %= len(next(iter(examples.values())))
    self._rows = parallel.put_columns(rows.reshape(steps, -1), mesh)
    chunk: Any = loop.make_chunk(objective, self.optimizer, mesh)
    traced = jax.make_jaxpr(chunk)(self.state, self._data, self._rows)
    self.flops = product_flops(traced.jaxpr) / steps
    start = time.perf_counter()
    self.compiled = chunk.lower(self.state, self._data, self._rows).compile()
    self.compile_s = time.perf_counter() - start
    self.seconds()

  def seconds(self) -> float:
    """Takes the steps and returns the seconds of one."""
    import jax

    start = time.perf_counter()
    self.state, values = self.compiled(self.state, self._data, self._rows)
    jax.block_until_ready((self.state, values))
    return (time.perf_counter() - start) / self._steps


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
  """Yields all equations of a program, and how often each runs.

  Those of inner programs too: the body of a `scan` as often as it runs, every
  branch of a conditional, the body of another loop once.

  Args:
    jaxpr: the program.
    times: how often it runs itself.
  """
  for equation in jaxpr.eqns:
    yield equation, times
    repeats = times
    if equation.primitive.name == 'scan':
      repeats *= equation.params['length']
    for given in equation.params.values():
      for value in given if isinstance(given, tuple | list) else (given,):
        inner = getattr(value, 'jaxpr', value)
        if hasattr(inner, 'eqns'):
          yield from equations(inner, repeats)


def product_flops(jaxpr: Any) -> float:
  """Counts the operations of a program's products and convolutions.

  Two for each multiplication with an addition, with every pass of a `scan`,
  where XLA's own count has one. Elementwise work is left out.

  Args:
    jaxpr: of the program.
  """
  total = 0.0
  for equation, times in equations(jaxpr):
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      size = math.prod(shape[i] for i in contracted)
    elif name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      axis = params['dimension_numbers'].rhs_spec[0]
      size = kernel.size // kernel.shape[axis]
    else:
      continue
    total += times * 2 * equation.outvars[0].aval.size * size
  return total


def rate(
  flops: float, seconds: float, machine: Mapping[str, Any]
) -> dict[str, float]:
  """Compares a step's rate with that of the machine's matrix product.

  Args:
    flops: of the step's products.
    seconds: that it takes.
    machine: what `machine` returned.

  Returns:
    'step_gflop', 'step_gflop_per_s', and 'fraction_of_product_rate'.
  """
  gflop_per_s = flops / seconds / 1e9
  return {
    'step_gflop': round(flops / 1e9, 2),
    'step_gflop_per_s': round(gflop_per_s, 1),
    'fraction_of_product_rate': round(
      gflop_per_s / machine['product_gflop_per_s'], 3
    ),
  }


def start_seconds(
  command: Sequence[str], environment: Mapping[str, str]
) -> float:
  """Returns the seconds that a process takes from its start to its end.

  Args:
    command: what to run.
    environment: what to set beside this process's own environment.
  """
  start = time.perf_counter()
  subprocess.run(
    list(command),
    cwd=ROOT,
    env={**os.environ, **environment},
    check=True,
    stdout=subprocess.DEVNULL,
  )
  return time.perf_counter() - start


def processor() -> str:
  """Returns the name of this machine's processor."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except OSError:
    return platform.processor()
  names = [x for x in text.splitlines() if x.startswith('model name')]
  return names[0].split(':')[1].strip() if names else platform.processor()


def machine(threads: int) -> dict[str, Any]:
  """Describes the machine, before anything else runs on it.

  Args:
    threads: of each side.

  Returns:
    Its processor, cores, load, and the rate of its own matrix product: of two
    float32 matrices of 2048x2048, the median of five, in GFLOP/s.
  """
  load = os.getloadavg()[0]
  code = (
    'import time, statistics, jax, jax.numpy as jnp\n'
    'x = jnp.ones((2048, 2048)); f = jax.jit(jnp.dot)\n'
    'f(x, x).block_until_ready(); seconds = []\n'
    'for _ in range(5):\n'
    '  start = time.perf_counter(); f(x, x).block_until_ready()\n'
    '  seconds.append(time.perf_counter() - start)\n'
    'print(2 * 2048**3 / statistics.median(seconds) / 1e9)\n'
  )
  pinned = f'import os; os.sched_setaffinity(0, range({threads}))\n'
  if not hasattr(os, 'sched_setaffinity'):
    pinned = ''
  rate = subprocess.run(
    [sys.executable, '-c', pinned + code],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    check=True,
    capture_output=True,
    text=True,
  )
  return {
    'processor': processor(),
    'cores': os.cpu_count(),
    'threads': threads,
    'load_before': round(load, 2),
    'product_gflop_per_s': round(float(rate.stdout), 1),
  }


def parser(
  doc: str | None, *, peer: str | None = None, turns: int, steps: int
) -> argparse.ArgumentParser:
  """Makes the flags that all benchmarks have.

  Args:
    doc: the module's docstring.
    peer: the package that the other side needs; None without one.
    turns: the default, and
    steps: that of steps a turn.
  """
  shared = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  if peer is not None:
    shared.add_argument(
      '--peer_python',
      '--torch_python',  # As the commands of older results have it.
      default=sys.executable,
      help=f'an interpreter that imports {peer}',
    )
  if peer == 'torch':
    shared.add_argument(
      '--peer_compiled',
      action='store_true',
      help='measure torch.compile too, which needs a C++ compiler',
    )
  shared.add_argument('--turns', type=int, default=turns)
  shared.add_argument('--steps', type=int, default=steps, help='steps a turn')
  shared.add_argument('--threads', type=int, default=2)
  shared.add_argument('--work', help=argparse.SUPPRESS)
  return shared


def run(
  args: argparse.Namespace,
  compare: Callable[[argparse.Namespace], dict[str, Any]],
  work: Callable[[argparse.Namespace], None],
) -> None:
  """Prints the JSON line, or works for the process that does.

  Args:
    args: the parsed flags.
    compare: returns the fields of the line.
    work: is the worker, kept to so many cores.
  """
  if not args.work:
    try:
      print(json.dumps(compare(args)))
    except (OSError, ValueError) as error:
      sys.exit(f'Error: {error}')
    return
  # XLA takes a thread for each core that it may run on.
  if hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)
  work(args)


def flags(args: argparse.Namespace, *names: str) -> list[str]:
  """Returns flags as a command has them, '--NAME=VALUE'."""
  return [f'--{name}={getattr(args, name)}' for name in names]


def worker(module: str, args: argparse.Namespace, *names: str) -> list[str]:
  """Returns the command of our own side.

  Args:
    module: of experiments.benchmarks.
    args: the parsed flags.
    *names: which flags to pass on, beside steps and threads.
  """
  command = [sys.executable, '-m', f'experiments.benchmarks.{module}']
  return [*command, '--work=turns', *flags(args, 'steps', 'threads', *names)]


def peer(script: str, args: argparse.Namespace, *names: str) -> list[str]:
  """Returns the command of the other side; arguments as of `worker`."""
  script = f'experiments/benchmarks/{script}.py'
  return [args.peer_python, script, *flags(args, 'threads', *names)]


def torch_peers(
  script: str, args: argparse.Namespace, *names: str
) -> dict[str, list[str]]:
  """Returns the commands of PyTorch's sides; arguments as of `worker`.

  Returns:
    'peer', eager, and with `--peer_compiled` 'peer_compiled'.
  """
  commands = {'peer': peer(script, args, *names)}
  if args.peer_compiled:
    commands['peer_compiled'] = [*commands['peer'], '--compile']
  return commands
