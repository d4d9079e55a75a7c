r"""How many seconds of training a stated accuracy takes, beside PyTorch.

  python -m experiments.benchmarks.time_to_accuracy --case=cifar10 \
      --peer_python=/path/to/an/environment/bin/python

Prints one JSON line, and what it has measured so far on stderr. Both sides
train DIM(L) with InfoNCE, without a prior or a probe, on the same batches in
the same order, with Adam's same settings: ours with the critic `factored`, the
PyTorch run with that of the paper's released code. After every so many steps
both encode the same images, and the same ridge regression of the classes on
the training part of these codes is measured on test images. Only training is
timed.

Cases:
  digits   small32 on scikit-learn's digits, 256 units; feature fc, 5 labels a
           class, the mean of ten draws; until 90 %
  cifar10  basic32 on CIFAR-10 (TFDS_DATA_DIR), 2048 units; feature conv, the
           first 10,000 training images; until 52 and 55 %

Fields, by target:
  ours_s, peer_s   seconds of training until the first measurement that reaches
                   it, None if none did; ours with its compilation
  ratio            peer_s / ours_s
  curves           [steps, seconds, accuracy] of each measurement
"""

import argparse
import pathlib
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks import harness


class Case(NamedTuple):
  """What to train, and what to reach.

  Attributes:
    data: the name of the data set.
    encoder: a name of `networks.encoders.ENCODERS`.
    channels: of its convolutions, and
    hidden: of its hidden layer, for the PyTorch side.
    units: of the critic.
    learning_rate: Adam's; b1 is 0.5.
    feature: what the regression reads.
    labels: a class, in ten draws; None for the first 10,000 training images.
    targets: accuracies to reach.
    every: steps between measurements.
  """

  data: str
  encoder: str
  channels: tuple[int, ...]
  hidden: int
  units: int
  learning_rate: float
  feature: str
  labels: int | None
  targets: tuple[float, ...]
  every: int


CASES = {
  'digits': Case(
    'digits', 'small32', (32, 64, 128), 256, 256, 1e-3, 'fc', 5, (0.9,), 10
  ),
  'cifar10': Case(
    'cifar10',
    'basic32',
    (64, 128, 256),
    1024,
    2048,
    1e-4,
    'conv',
    None,
    (0.52, 0.55),
    100,
  ),
}
BATCH_SIZE = 64
PROBED = 10_000
DRAWS = 10
# The regression's penalty, of features whose overall standard deviation is 1.
PENALTY = 0.1


def write_inputs(
  case: Case, folder: pathlib.Path, steps: int, probed: int = PROBED
) -> tuple[np.ndarray, np.ndarray]:
  """Writes what both sides read: images, the rows of batches, and probed ones.

  Args:
    case: which data.
    folder: gets 'images.npy' [T, H, W, C] and 'probed.npy', uint8, and
      'rows.npy' [steps, N], int32.
    steps: to train at most.
    probed: training images among the probed, the first ones.

  Returns:
    The labels of the training and of the test images among the probed.
  """
  from dim_jax import data
  from dim_jax.config import DataConfig

  size = 32 if case.data == 'digits' else None
  config = DataConfig(name=case.data, image_size=size, validation=0.0)
  train, test = data.load.load(config, 'train'), data.load.load(config, 'test')
  rng = np.random.default_rng(0)
  epochs = -(-steps * BATCH_SIZE // len(train.inputs))
  rows = np.concatenate(
    [rng.permutation(len(train.inputs)) for _ in range(epochs)]
  )
  rows = rows[: steps * BATCH_SIZE].reshape(steps, BATCH_SIZE)
  both = np.concatenate([train.inputs[:probed], test.inputs])
  np.save(folder / 'images.npy', train.inputs)
  np.save(folder / 'rows.npy', rows.astype(np.int32))
  np.save(folder / 'probed.npy', both)
  return train.labels['class'][:probed], test.labels['class']


def accuracy(
  case: Case, codes: np.ndarray, labels: np.ndarray, test_labels: np.ndarray
) -> float:
  """Returns the test accuracy of a ridge regression of the classes on codes.

  Args:
    case: how many labels it may use.
    codes: [T + M, ...], of the training images and then of the test images.
    labels: [T], and
    test_labels: [M].
  """
  codes = codes.reshape(len(codes), -1).astype(np.float64)
  train, test = codes[: len(labels)], codes[len(labels) :]
  draws = [np.arange(len(labels))]
  if case.labels is not None:
    rng = np.random.default_rng(0)
    draws = [
      np.concatenate(
        [
          rng.choice(np.flatnonzero(labels == k), case.labels, replace=False)
          for k in range(10)
        ]
      )
      for _ in range(DRAWS)
    ]
  accuracies = []
  for rows in draws:
    mean = train[rows].mean(0)
    x = (train[rows] - mean[None]) / train[rows].std()
    gram = x.T @ x / len(x) + PENALTY * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ np.eye(10)[labels[rows]] / len(x))
    # The classes are as frequent in every draw, so their intercepts are equal.
    scores = (test - mean[None]) @ weights
    accuracies.append(np.mean(scores.argmax(1) == test_labels))
  return float(np.mean(accuracies))


def work(args: argparse.Namespace) -> None:
  """Answers 'train START STOP' with seconds, 'encode FOLDER FEATURE ...'."""
  import functools

  import jax

  from dim_jax.config import OptimizerConfig
  from dim_jax.objectives import dim
  from dim_jax.training import loop, parallel, step

  case, folder = CASES[args.case], pathlib.Path(args.work)
  images, rows = (np.load(folder / f'{x}.npy') for x in ('images', 'rows'))
  objective = dim.make(
    dim.Config(
      encoder=case.encoder,
      bound='infonce',
      critic_units=case.units,
      prior=None,
      num_classes=0,
    )
  )
  mesh = parallel.make_mesh(1)
  few = {'image': images[:2]}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), few)
  config = OptimizerConfig(learning_rate=case.learning_rate, b1=0.5)
  optimizer = step.make_optimizer(config, {}, params)
  init = jax.jit(functools.partial(step.init_state, objective, optimizer, few))
  state = parallel.replicate(init(jax.random.key(args.seed)), mesh)
  data = parallel.replicate({'image': images}, mesh)
  chunk: Any = loop.make_chunk(objective, optimizer, mesh)
  start = time.perf_counter()
  first = parallel.put_columns(rows[: case.every], mesh)
  chunk = chunk.lower(state, data, first).compile()
  compile_s = time.perf_counter() - start
  encode = jax.jit(objective.encode)

  def answer(request: str) -> float:
    nonlocal state
    name, *words = request.split()
    if name == 'encode':
      probed = np.load(folder / 'probed.npy')
      parts = [
        encode(state.params, state.model_state, {'image': probed[i : i + 500]})
        for i in range(0, len(probed), 500)
      ]
      for feature in words[1:]:
        values = np.concatenate([x[feature] for x in parts])
        np.save(pathlib.Path(words[0]) / feature, values)
      return 0.0
    begin, end = map(int, words)
    start = time.perf_counter()
    columns = parallel.put_columns(rows[begin:end], mesh)
    state, metrics = chunk(state, data, columns)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - start

  harness.serve({'compile_s': compile_s}, answer)


def measure(
  case: Case, workers: Any, steps: int, folder: pathlib.Path, labels: Any
) -> dict[str, list[list[float]]]:
  """Trains both sides in turn, each until it reaches the last target.

  Args:
    case: what to reach.
    workers: by side.
    steps: to train at most.
    folder: for the codes.
    labels: of the probed images, as `write_inputs` returns them.

  Returns:
    [steps, seconds, accuracy] of each measurement, by side.
  """
  curves: dict[str, list[list[float]]] = {name: [] for name in workers}
  seconds = {
    name: worker.ready.get('compile_s', 0.0) for name, worker in workers.items()
  }
  for begin in range(0, steps, case.every):
    end = begin + case.every
    for name, worker in workers.items():
      if curves[name] and curves[name][-1][2] >= case.targets[-1]:
        continue
      seconds[name] += worker.ask(f'train {begin} {end}')
      worker.ask(f'encode {folder} {case.feature}')
      codes = np.load(folder / f'{case.feature}.npy')
      reached = accuracy(case, codes, *labels)
      curves[name].append([end, round(seconds[name], 2), round(reached, 4)])
      print(
        f'{name}: step {end}, {seconds[name]:.1f} s, {reached:.2%}',
        file=sys.stderr,
        flush=True,
      )
  return curves


def peer(
  case: Case, args: argparse.Namespace, folder: pathlib.Path
) -> list[str]:
  """Returns the command of the PyTorch side.

  Args:
    case: what it trains.
    args: with peer_python, threads and seed.
    folder: of its inputs, see `write_inputs`.
  """
  return [
    *harness.peer('torch_accuracy', args, 'seed'),
    *(f'--folder={folder}', f'--units={case.units}', f'--hidden={case.hidden}'),
    f'--learning_rate={case.learning_rate}',
    *('--channels', *map(str, case.channels)),
  ]


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Trains both sides and returns the fields of the JSON line."""
  case = CASES[args.case]
  steps = -(-args.steps // case.every) * case.every
  machine = harness.machine(args.threads)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    labels = write_inputs(case, folder, steps)
    flags = harness.flags(args, 'case', 'seed', 'threads')
    module = 'experiments.benchmarks.time_to_accuracy'
    commands = {
      'peer': peer(case, args, folder),
      'ours': [sys.executable, '-m', module, *flags, f'--work={folder}'],
    }
    with harness.working(commands, args.threads) as workers:
      curves = measure(case, workers, steps, folder, labels)
      sides = harness.sides(workers)
      compile_s = workers['ours'].ready['compile_s']
  fields: dict[str, Any] = {}
  for target in case.targets:
    ours, theirs = (
      next((s for _, s, a in curves[side] if a >= target), None)
      for side in ('ours', 'peer')
    )
    ratio = round(theirs / ours, 2) if ours and theirs else None
    fields[f'{target:.0%}'] = {'ours_s': ours, 'peer_s': theirs, 'ratio': ratio}
  return {
    'name': f'time_to_accuracy_{args.case}',
    **fields,
    'compile_s': round(compile_s, 2),
    'seed': args.seed,
    'batch_size': BATCH_SIZE,
    'curves': curves,
    'machine': machine,
    **sides,
  }


def main() -> None:
  """Prints the JSON line, or works for the process that does."""
  parser = harness.parser(__doc__, peer='torch', turns=1, steps=3000)
  parser.add_argument('--case', choices=tuple(CASES), default='digits')
  parser.add_argument('--seed', type=int, default=0)
  harness.run(parser.parse_args(), compare, work)


if __name__ == '__main__':
  main()
