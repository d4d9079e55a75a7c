"""Moves particles to densities whose answers are known, and prints the errors.

  python -m experiments.studies.particles --targets=mixture_1d
  python -m experiments.studies.particles

The second command runs all of TARGETS. Each writes OUT/NAME.json, its table,
OUT/NAME.npz, the particles at the recorded iterations, and pictures of them.

Stein variational gradient descent with the particle's own term in the mean over
particles (Liu and Wang, 2016) is compared with the mean over the others. With
it the variance shrinks as dimensions grow, without it grows: 100 particles of
N(0, I) had 0.96 (d = 1), 0.44 (10) and 0.09 (50), and 3.1, 2.4 and over 100.
The mean over the others is for particles that are drawn anew at every step, as
a generator's are.
"""

import datetime
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.box
import rich.console
import rich.table

from dim_jax import checks, files, samplers
from dim_jax.commands.command import Command, show
from dim_jax.data import points
from dim_jax.losses import kernel_stein
from dim_jax.report import figures
from dim_jax.runs import provenance
from experiments.studies import dynamics_figures as pictures

LogDensity = Callable[[jax.Array], jax.Array]
_GRID = 101


class Result(NamedTuple):
  """What a target found.

  Attributes:
    note: how it was made, a sentence or two.
    rows: of its table, with the same names in each.
    arrays: for figures.
  """

  note: str
  rows: list[dict[str, Any]]
  arrays: dict[str, Any]


def svgd(
  log_density: LogDensity,
  start: jax.Array | np.ndarray,
  iterations: Sequence[int],
  *,
  learning_rate: float,
  self_term: bool,
) -> np.ndarray:
  """Moves particles by Adam along the direction of Stein.

  Args:
    log_density: of the target up to a constant, [n, d] -> [n].
    start: the particles, [n, d].
    iterations: when to record them, in ascending order; 0 is the start.
    learning_rate: of Adam (b1 0.9, b2 0.999).
    self_term: see `dim_jax.losses.kernel_stein.svgd_direction`.

  Returns:
    The particles at those iterations, float32 [len(iterations), n, d].
  """
  optimizer = optax.adam(learning_rate)
  score = jax.grad(lambda x: log_density(x).sum())

  # The number of steps is an argument, so that one program serves all parts.
  @jax.jit
  def advance(state, steps):
    def body(_, state):
      particles, moments = state
      direction = kernel_stein.svgd_direction(
        particles, score(particles), self_term=self_term
      )
      change, moments = optimizer.update(-direction, moments)
      return optax.apply_updates(particles, change), moments

    return jax.lax.fori_loop(0, steps, body, state)

  particles = jnp.asarray(start, jnp.float32)
  state = particles, optimizer.init(particles)
  recorded, done = [], 0
  for iteration in iterations:
    state = advance(state, iteration - done)
    done = iteration
    recorded.append(np.asarray(state[0]))
  return np.stack(recorded)


def mixture_1d(
  *,
  seed: int = 0,
  particles: int = 100,
  iterations: Sequence[int] = (0, 50, 75, 100, 150, 500),
  learning_rate: float = 0.5,
) -> Result:
  """Expectations under 1/3 N(-2, 1) + 2/3 N(2, 1), started at N(-10, 1).

  The cosine is cos(w x + b) with w ~ N(0, 1) and b uniform on the circle, and
  its error the root mean square over 20 of them.

  References:
    Liu and Wang, Stein variational gradient descent, 2016, section 5.
    https://arxiv.org/abs/1608.04471
  """
  random = np.random.default_rng(seed)
  start = random.normal(-10, 1, (particles, 1))
  w, b = random.normal(size=20), random.uniform(0, 2 * math.pi, 20)

  def cosines(w: np.ndarray, b: np.ndarray) -> np.ndarray:
    # E cos(w x + b) of N(m, 1) is cos(w m + b) exp(-w^2 / 2).
    waves = np.cos(w * -2 + b) / 3 + np.cos(w * 2 + b) * 2 / 3
    return waves * np.exp(-(w**2) / 2)

  mean, square = 2 / 3, 5.0
  rows: list[dict[str, Any]] = []
  arrays: dict[str, np.ndarray] = {'iterations': np.asarray(iterations)}
  for self_term, paths in _both(
    'mixture_1d', start, iterations, learning_rate
  ).items():
    arrays[f'particles_{self_term}'] = paths
    for iteration, x in zip(iterations, paths[..., 0], strict=True):
      features = np.cos(w * x[:, None] + b).mean(0)
      rows.append(
        {
          'self term': self_term,
          'iteration': iteration,
          'mean error': abs(x.mean() - mean),
          'square error': abs((x**2).mean() - square),
          'cosine error': np.sqrt(np.mean((features - cosines(w, b)) ** 2)),
        }
      )
  # E x^4 of N(m, 1) is m^4 + 6 m^2 + 3 = 43; cos^2 u = (1 + cos 2u) / 2.
  spread = (1 + cosines(2 * w, 2 * b)) / 2 - cosines(w, b) ** 2
  rows.append(
    {
      'self term': 'independent draws',
      'iteration': '',
      'mean error': math.sqrt((square - mean**2) / particles),
      'square error': math.sqrt((43 - square**2) / particles),
      'cosine error': math.sqrt(spread.mean() / particles),
    }
  )
  note = (
    f'{particles} particles from N(-10, 1), Adam {learning_rate}; the last row '
    'is the root mean square error of as many independent draws.'
  )
  x = np.linspace(-12, 8, 401)
  arrays |= {'grid': x, 'log_density': _values('mixture_1d', x[:, None])}
  return Result(note, rows, arrays)


def plane(
  name: str,
  *,
  seed: int = 0,
  particles: int = 100,
  iterations: Sequence[int] = (0, 50, 100, 200, 500, 1000),
  learning_rate: float = 0.2,
) -> Result:
  """Mean and covariance under a density in the plane, started at its side.

  Args:
    name: in `dim_jax.data.points.DENSITIES`, of two dimensions.
    seed: of the start.
    particles: how many.
    iterations: when to record them.
    learning_rate: of Adam.
  """
  mean, covariance = points.moments(name)
  start = np.random.default_rng(seed).normal(-3, 0.5, (particles, 2))
  rows: list[dict[str, Any]] = []
  arrays: dict[str, np.ndarray] = {'iterations': np.asarray(iterations)}
  for self_term, paths in _both(name, start, iterations, learning_rate).items():
    arrays[f'particles_{self_term}'] = paths
    for iteration, x in zip(iterations, paths, strict=True):
      off = np.cov(x, rowvar=False) - covariance
      rows.append(
        {
          'self term': self_term,
          'iteration': iteration,
          'mean error': np.linalg.norm(x.mean(0) - mean),
          'covariance error': np.linalg.norm(off) / np.linalg.norm(covariance),
          'log density': _values(name, x).mean(),
        }
      )
  test = points.load(name, 'test', 100_000)
  rows.append(
    {
      'self term': 'independent draws',
      'iteration': '',
      'mean error': math.sqrt(np.trace(covariance) / particles),
      'covariance error': _covariance_spread(test, covariance, particles),
      'log density': _values(name, test).mean(),
    }
  )
  note = (
    f'{particles} particles from N((-3, -3), I/4), Adam {learning_rate}: '
    'errors of the mean as a length, of the covariance as a share of its '
    'Frobenius norm, mean log density in nats; the last row is what as many '
    'independent draws would have (root mean square errors).'
  )
  side = np.linspace(-5, 5, _GRID)
  grid = np.stack(np.meshgrid(side, side, indexing='ij'), -1)
  values = _values(name, grid.reshape(-1, 2)).reshape(_GRID, _GRID)
  return Result(note, rows, arrays | {'grid': side, 'log_density': values})


def _covariance_spread(
  draws: np.ndarray, covariance: np.ndarray, count: int
) -> float:
  """Root mean square relative error of the covariance of `count` draws."""
  parts = draws[: len(draws) // count * count].reshape(-1, count, 2)
  off = np.stack([np.cov(part, rowvar=False) for part in parts]) - covariance
  squares = (off**2).sum((1, 2))
  return math.sqrt(squares.mean()) / float(np.linalg.norm(covariance))


def variance(
  *,
  seed: int = 0,
  particles: int = 100,
  dimensions: Sequence[int] = (1, 2, 5, 10, 20, 50),
  iterations: int = 1000,
  learning_rate: float = 0.05,
) -> Result:
  """Variance of the particles of N(0, I) as its dimensions grow: 1 is right."""
  rows: list[dict[str, Any]] = []
  for size in dimensions:
    start = np.random.default_rng(seed).normal(size=(particles, size))
    row: dict[str, Any] = {'dimensions': size}
    for self_term in (True, False):
      (x,) = svgd(
        lambda x: -0.5 * (x**2).sum(1),
        start,
        [iterations],
        learning_rate=learning_rate,
        self_term=self_term,
      )
      name = _name(self_term)
      row[f'variance {name}'] = x.var(0).mean()
      row[f'|mean| {name}'] = np.abs(x.mean(0)).mean()
    rows.append(row)
  note = (
    f'{particles} particles of N(0, I), {iterations} iterations, Adam '
    f'{learning_rate}: mean over dimensions of the marginal variance and of '
    'the distance of the mean from 0.'
  )
  arrays = {key: np.array([row[key] for row in rows]) for key in rows[0]}
  return Result(note, rows, arrays)


class Regression(NamedTuple):
  """A Bayesian logistic regression.

  The weights are w ~ N(0, I / alpha) with alpha ~ Gamma(1, rate 0.01); a
  particle is (w, log alpha).

  Attributes:
    train: inputs [n, D], standardised, the last column ones; labels -1 or 1.
    test: the same of what is held out, standardised as the training inputs.

  References:
    Liu and Wang, Stein variational gradient descent, 2016, section 5, after
    Gershman, Hoffman and Blei, Nonparametric variational inference, 2012.
    https://arxiv.org/abs/1608.04471
  """

  train: tuple[np.ndarray, np.ndarray]
  test: tuple[np.ndarray, np.ndarray]

  def log_density(self, theta: jax.Array) -> jax.Array:
    """Log of the posterior up to a constant, [n, D + 1] -> [n]."""
    weights, log_alpha = theta[:, :-1], theta[:, -1]
    inputs, labels = (jnp.asarray(x, jnp.float32) for x in self.train)
    margins = labels[None] * (weights @ inputs.T)
    likelihood = jax.nn.log_sigmoid(margins).sum(1)
    alpha = jnp.exp(log_alpha)
    prior = 0.5 * weights.shape[1] * log_alpha - 0.5 * alpha * (weights**2).sum(
      1
    )
    # The last log_alpha is the Jacobian of the logarithm.
    return likelihood + prior - 0.01 * alpha + log_alpha

  def predict(self, theta: np.ndarray) -> tuple[float, float]:
    """Test accuracy, and nats an example, of the averaged prediction."""
    inputs, labels = self.test
    margins = theta[:, :-1] @ (inputs * labels[:, None]).T
    right = np.exp(-np.logaddexp(0, -margins)).mean(0)
    return float(np.mean(right > 0.5)), float(np.log(right).mean())


def breast_cancer(seed: int = 0) -> Regression:
  """The 569 patients of scikit-learn, a fifth of them held out."""
  from sklearn import datasets

  inputs, labels = datasets.load_breast_cancer(return_X_y=True)
  order = np.random.default_rng(seed).permutation(len(labels))
  inputs, labels = inputs[order], 2.0 * labels[order] - 1
  held_out = len(labels) // 5
  train = inputs[held_out:]
  inputs = (inputs - train.mean(0)) / train.std(0)
  inputs = np.concatenate([inputs, np.ones([len(inputs), 1])], 1)
  return Regression(
    (inputs[held_out:], labels[held_out:]),
    (inputs[:held_out], labels[:held_out]),
  )


class Chains(NamedTuple):
  """Draws of many chains of Langevin with Metropolis.

  Attributes:
    draws: [draws, chains, d].
    acceptance: of the steps between them, in [0, 1].
    step_size: what the pilot settled at.
    rhat: largest over dimensions; 1 where the chains agree.
  """

  draws: np.ndarray
  acceptance: float
  step_size: float
  rhat: float


def chains(
  log_density: LogDensity,
  start: np.ndarray,
  *,
  seed: int = 0,
  pilot: int = 40,
  draws: int = 160,
  thin: int = 100,
) -> Chains:
  """Long chains, whose draws are the truth that particles are compared with.

  Args:
    log_density: of the target up to a constant, [n, d] -> [n].
    start: of the chains, [n, d].
    seed: of the noise.
    pilot: parts of `thin` steps that are thrown away, while the step size is
      brought to an acceptance of 0.574.
    draws: how many to keep of each chain.
    thin: steps between them.

  Returns:
    The draws, with the signs of whether they can be trusted.

  References:
    Roberts and Rosenthal, Optimal scaling of discrete approximations to
    Langevin diffusions, 1998 (0.574). https://doi.org/10.1111/1467-9868.00123
    Gelman and Rubin, Inference from iterative simulation using multiple
    sequences, 1992 (rhat). https://doi.org/10.1214/ss/1177011136
  """

  @jax.jit
  def part(rng, x, step_size):
    def transition(rng, x):
      return samplers.mala(rng, x, log_density, step_size)

    return samplers.run_chain(rng, x, transition, thin)

  rng = jax.random.key(seed)
  x = jnp.asarray(start, jnp.float32)
  step_size = 1e-3
  for i in range(pilot):
    step = part(jax.random.fold_in(rng, i), x, step_size)
    x = step.position
    excess = float(step.acceptance.mean()) - 0.574
    # Ever smaller changes; the first ones find the scale.
    step_size *= math.exp(4 * excess / math.sqrt(1 + i))
  kept, accepted = [], []
  for i in range(pilot, pilot + draws):
    step = part(jax.random.fold_in(rng, i), x, step_size)
    x = step.position
    kept.append(np.asarray(x))
    accepted.append(float(step.acceptance.mean()))
  samples = np.stack(kept)
  within = samples.var(0, ddof=1).mean(0)
  between = samples.mean(0).var(0, ddof=1)
  rhat = np.sqrt((draws - 1) / draws + between / within).max()
  return Chains(samples, float(np.mean(accepted)), step_size, float(rhat))


def logistic(
  *,
  seed: int = 0,
  particles: int = 100,
  iterations: Sequence[int] = (0, 100, 500, 2000, 5000),
  learning_rate: float = 0.02,
  pilot: int = 40,
  draws: int = 160,
) -> Result:
  """The posterior of `breast_cancer` beside long chains.

  References:
    See `Regression`, and `dim_jax.samplers.mala`.
  """
  task = breast_cancer(seed)
  size = task.train[0].shape[1] + 1
  start = np.random.default_rng(seed).normal(0, 0.1, (particles, size))
  truth = chains(task.log_density, start, seed=seed, pilot=pilot, draws=draws)
  flat = truth.draws.reshape(-1, size)
  mean, deviation = flat.mean(0), flat.std(0)
  arrays: dict[str, np.ndarray] = {
    'iterations': np.asarray(iterations),
    'chains': truth.draws[-1],
    'chains_mean': mean,
    'chains_deviation': deviation,
  }

  def row(name: str, iteration: Any, x: np.ndarray) -> dict[str, Any]:
    accuracy, nats = task.predict(x)
    return {
      'self term': name,
      'iteration': iteration,
      'mean error': np.sqrt(np.mean(((x.mean(0) - mean) / deviation) ** 2)),
      'deviation': np.mean(x.std(0) / deviation),
      'accuracy': accuracy,
      'nats': nats,
    }

  rows = []
  for self_term in (True, False):
    paths = svgd(
      task.log_density,
      start,
      iterations,
      learning_rate=learning_rate,
      self_term=self_term,
    )
    name = _name(self_term)
    arrays[f'particles_{name}'] = paths
    rows += [row(name, i, x) for i, x in zip(iterations, paths, strict=True)]
  rows.append(row('MALA', 100 * (pilot + draws), flat))
  note = (
    f'{particles} particles of {size} numbers, Adam {learning_rate}; the mean '
    "is off by so many of the chains' standard deviations (root mean square), "
    'the deviation is a share of theirs (mean); test accuracy, and log '
    f'likelihood in nats an example. {particles} chains: acceptance '
    f'{truth.acceptance:.3f}, step size {truth.step_size:.2g}, largest rhat '
    f'{truth.rhat:.3f}.'
  )
  return Result(note, rows, arrays)


def _both(
  name: str,
  start: np.ndarray,
  iterations: Sequence[int],
  learning_rate: float,
) -> dict[str, np.ndarray]:
  """Paths of particles with and without the self term."""
  return {
    _name(self_term): svgd(
      lambda x: points.log_density(name, x),
      start,
      iterations,
      learning_rate=learning_rate,
      self_term=self_term,
    )
    for self_term in (True, False)
  }


def _name(self_term: bool) -> str:
  return 'with' if self_term else 'without'


def _values(name: str, x: np.ndarray) -> np.ndarray:
  return np.asarray(points.log_density(name, x))


TARGETS: dict[str, Callable[..., Result]] = {
  'mixture_1d': mixture_1d,
  'mixture_2d': lambda **options: plane('mixture_2d', **options),
  'gaussian': lambda **options: plane('gaussian', **options),
  'banana': lambda **options: plane('banana', **options),
  'variance': variance,
  'logistic': logistic,
}


def run(name: str, out: str, *, seed: int = 0) -> dict[str, Any]:
  """Runs a target and writes OUT/NAME.json and .npz, and its pictures.

  Args:
    name: in TARGETS.
    out: the folder.
    seed: of the start, and of the chains.

  Returns:
    The contents of the JSON file.
  """
  started = time.time()
  result = TARGETS[name](seed=seed)
  report = {
    'target': name,
    'note': result.note,
    'seed': seed,
    'rows': [
      {k: v if isinstance(v, str | int) else float(v) for k, v in row.items()}
      for row in result.rows
    ],
    'hardware': provenance.hardware(),
    'versions': provenance.versions(),
    'date': datetime.date.today().isoformat(),
    'seconds': time.time() - started,
  }
  os.makedirs(out, exist_ok=True)
  path = os.path.join(out, name)
  files.write_arrays(f'{path}.npz', result.arrays)
  for picture in pictures.of_particles(name, result.arrays):
    figures.save(picture, out)
  files.write_json(f'{path}.json', report)
  return report


def table(report: dict[str, Any]) -> rich.table.Table:
  """What `run` returned, as a table."""
  shown = rich.table.Table(
    title=report['target'],
    caption=report['note'],
    caption_justify='left',
    box=rich.box.SIMPLE_HEAD,
  )
  rows = report['rows']
  for name, value in rows[0].items():
    shown.add_column(
      name, justify='left' if isinstance(value, str) else 'right'
    )
  for row in rows:
    shown.add_row(
      *(f'{v:.3f}' if isinstance(v, float) else str(v) for v in row.values())
    )
  return shown


_COMMAND = Command('studies.particles', __doc__, old={'toys': '--targets'})
_TARGETS = _COMMAND.items('targets', tuple(TARGETS), 'Which.')
_OUT = _COMMAND.path('out', 'runs/particles', 'The folder to write into.')
_SEED = _COMMAND.integer('seed', 0, 'Of the particles.')


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  for name in _TARGETS.value:
    checks.check_choice('--targets', name, TARGETS)
  for name in _TARGETS.value:
    report = run(name, _OUT.value, seed=_SEED.value)
    show(table(report), os.path.join(_OUT.value, f'{name}.json'))


if __name__ == '__main__':
  main()
