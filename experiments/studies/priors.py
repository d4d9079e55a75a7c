"""Which divergence brings codes to a prior, and what that costs.

  python -m experiments.studies.priors --workdir=runs/priors

trains global Deep InfoMax with each way of matching N(0, I), on small images
with a small MLP, and prints how near the codes came, how dependent their
dimensions are, and what a linear probe reads from them.

  python -m experiments.studies.priors --workdir=runs/priors_points --points

lets a generator of points meet the same losses on a ring of eight Gaussians.

The same command on the same folder trains only what is not there yet. The
tables show what each loss does with its paper's penalty, Adam at one rate, and
the steps and weights of CONDITIONS; --scale multiplies those weights, and
--validation measures on held-out training images, to choose it by.
"""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.console
import rich.table

from dim_jax import checks, files, progress
from dim_jax import config as config_lib
from dim_jax.commands.command import Command, show
from dim_jax.data import load as data_lib
from dim_jax.data import points as points_lib
from dim_jax.evaluation import probes as probes_lib
from dim_jax.losses import adversarial
from dim_jax.losses import priors as prior_losses
from dim_jax.networks import critics, encoders, generators
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import dim
from dim_jax.objectives.terms import prior_matching
from dim_jax.runs import provenance
from dim_jax.training import grid, loop
from dim_jax.training import step as step_lib


class Condition(NamedTuple):
  """One way of matching the prior.

  Attributes:
    objective: what differs in the objective's config.
    adversary: what differs in the adversary's optimizer.
    updates: steps of the adversary to one of the encoder. The encoder takes the
      same number of steps in every condition.
  """

  objective: dict[str, Any]
  adversary: dict[str, Any] = {}  # noqa: RUF012 (a default, never changed)
  updates: int = 1


CONDITIONS: dict[str, Condition] = {
  'none': Condition({'weight': 0.0}),
  'jsd_unpenalised': Condition({'gradient_penalty': 0.0}),
  'jsd': Condition({}),
  'wgan': Condition(
    {'divergence': 'wgan'}, {'clip_weights': 0.01, 'b1': 0.0}, 5
  ),
  'wgan_gp': Condition({'divergence': 'wgan_gp'}, {'b1': 0.0}, 5),
  'wgan_lp': Condition({'divergence': 'wgan_lp'}, {'b1': 0.0}, 5),
  'wgan_div': Condition({'divergence': 'wgan_div'}, {'clip': 1.0}),
  # The pull of GAN-QP scales with its lambda, 10.
  'gan_qp_l1': Condition({'divergence': 'gan_qp_l1', 'weight': 0.01}, {}, 2),
  'gan_qp_l2': Condition({'divergence': 'gan_qp_l2', 'weight': 0.01}, {}, 2),
  'hinge': Condition({'divergence': 'hinge'}, {'b1': 0.0}),
  'lsgan': Condition({'divergence': 'lsgan'}),
  'rsgan': Condition({'divergence': 'rsgan'}),
  'kl': Condition({'distribution': 'kl'}),
  'mmd': Condition({'divergence': 'mmd', 'weight': 10.0}),
  'stein': Condition({'divergence': 'stein'}),
}
POINT_CONDITIONS = tuple(
  name for name in CONDITIONS if name not in ('none', 'kl')
)

_CODE = 16
# Of a larger set so many codes are compared with the prior, and so many images
# train the probe.
_COMPARED = 2_000
_PROBED = 10_000


@dataclasses.dataclass(kw_only=True)
class PointsConfig:
  """A generator of points against a known density."""

  density: str = 'ring'
  """One of `dim_jax.data.points.DENSITIES`."""
  divergence: str = 'jsd'
  """As of `dim.Prior`; 'stein' follows the density's own score."""
  gradient_penalty: float = 1.0
  """Weight of the divergence's own penalty."""
  adversary_units: tuple[int, ...] = (128, 128)
  spectral_norm: bool | None = None
  """Of the adversary; None for 'hinge' alone."""
  noise: int = 2
  """Dimensions of the generator's Gaussian noise."""


# Scales of a ring of radius 2, and of its modes.
_POINT_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)


def make(config: PointsConfig, *, axis_name: str | None = None) -> Objective:
  """Makes an objective of the groups 'generator' and 'adversary'.

  Metrics: 'prior/adversary', its 'prior/gradient_penalty' or 'prior/penalty',
  and 'prior/encoder', the generator's term.

  Args:
    config: the density and the loss.
    axis_name: must be None; it is for one device.

  Raises:
    ValueError: the divergence is unknown.
  """
  if axis_name is not None:
    raise ValueError('a generator of points runs on one device.')
  checks.check_choice(
    'divergence', config.divergence, prior_matching.DIVERGENCES
  )
  points_lib.find(config.density)  # It names what there is, if this is not.
  adversary = critics.Adversary(
    units=tuple(config.adversary_units),
    spectral_norm=prior_matching.normalises(
      config.divergence, config.spectral_norm
    ),
  )
  rules = adversarial.ADVERSARIAL.get(config.divergence)

  def generator(batch: Batch) -> generators.MLPGenerator:
    return generators.MLPGenerator(shape=batch['point'].shape[1:])

  def init(rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
    rngs = jax.random.split(rng)
    noise = jnp.zeros((2, config.noise))
    variables = generator(batch).init(rngs[0], noise)
    params, state = {'generator': variables['params']}, {}
    if rules is not None:
      state = dict(adversary.init(rngs[1], batch['point']))
      params['adversary'] = state.pop('params')
    return params, {'adversary': state}

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    noise_rng, penalty_rng = jax.random.split(rng)
    real = batch['point']
    noise = jax.random.normal(noise_rng, (len(real), config.noise))
    fake = generator(batch).apply({'params': params['generator']}, noise)
    if rules is not None:
      terms = prior_matching.adversarial_terms(
        rules,
        adversary,
        {'params': params['adversary'], **model_state['adversary']},
        penalty_rng,
        real,
        fake,
        penalised=config.gradient_penalty > 0,
      )
      total = terms.total(1.0, config.gradient_penalty)
      return total, (terms.metrics(), {'adversary': terms.state})
    if config.divergence == 'mmd':
      term = prior_losses.mmd(fake, real, bandwidths=_POINT_BANDWIDTHS)
    else:
      log_density = functools.partial(points_lib.log_density, config.density)
      score = jax.grad(lambda x: log_density(x).sum())
      term = prior_losses.stein_prior(fake, score_fn=score)
    return term, ({'prior/encoder': term}, model_state)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    # What it generates of fixed noise, as many points as the batch has.
    del model_state
    noise = jax.random.normal(
      jax.random.key(0), (len(batch['point']), config.noise)
    )
    return {
      'point': generator(batch).apply({'params': params['generator']}, noise)
    }

  return Objective(init, loss, encode)


def total_correlation(codes: np.ndarray) -> float:
  """Dependence between dimensions, if they were jointly Gaussian.

  -1/2 ln det of the correlation matrix: the total correlation of a Gaussian
  with the codes' correlations, and a lower bound on that of codes whose own
  dimensions are Gaussian. n independent rows have about D (D - 1) / (4 n).

  Args:
    codes: shape [n, D], n > D.

  Returns:
    Nats.
  """
  correlation = np.corrcoef(np.asarray(codes, np.float64), rowvar=False)
  return float(-np.linalg.slogdet(correlation)[1] / 2)


def mode_coverage(
  samples: np.ndarray, means: np.ndarray, std: float
) -> tuple[int, float]:
  """How many modes samples reach, and how many samples are at one.

  Args:
    samples: shape [n, D].
    means: of the modes, shape [K, D].
    std: standard deviation of each mode, in every direction.

  Returns:
    The number of modes with at least 1 % of the samples within 3 deviations,
    and the fraction of samples within 3 deviations of any.
  """
  distances = np.linalg.norm(samples[:, None] - means[None], axis=2)
  near = distances <= 3 * std
  # A sample counts for its nearest mode alone.
  near &= distances == distances.min(axis=1, keepdims=True)
  return int((near.mean(0) >= 0.01).sum()), float(near.any(1).mean())


def condition_config(
  name: str,
  *,
  points: bool,
  dataset: str,
  steps: int,
  batch_size: int,
  scale: float = 1.0,
  validation: bool = False,
) -> config_lib.ExperimentConfig:
  """Returns the run of a condition; its seed is not used.

  Args:
    name: of `CONDITIONS`.
    points: whether it is the generator of points.
    dataset: of images, 'digits' or 'mnist'; of points, a density.
    steps: that the encoder takes.
    batch_size: examples a step.
    scale: multiplies the prior's weight; of images.
    validation: whether a tenth of the training images is held out.

  Raises:
    ValueError: there is no such condition.
  """
  accepted = POINT_CONDITIONS if points else tuple(CONDITIONS)
  if name not in accepted:
    raise ValueError(f'no condition {name!r}: there are {accepted}.')
  condition = CONDITIONS[name]
  objective: Any
  groups: tuple[str, ...]
  data: config_lib.DataConfig | config_lib.PointConfig
  if points:
    changes = {k: v for k, v in condition.objective.items() if k != 'weight'}
    objective = PointsConfig(density=dataset, **changes)
    data = config_lib.PointConfig(name=dataset)
    groups = ('generator',)
  else:
    fields: dict[str, Any] = {
      'encoder': encoders.MLPCode(
        code=_CODE, stochastic=condition.objective.get('distribution') == 'kl'
      ),
      # The mutual information of the code with the pixels, all of them.
      'local_feature': 'input',
      'map_feature': 'input',
      'bound': 'jsd',
      'critic_units': 256,
      'num_classes': 0,
    }
    prior = {'distribution': 'gaussian', 'adversary_units': (128, 128)}
    objective = dim.Config(
      prior=dim.Prior(**prior | condition.objective), **fields
    )
    objective.prior.weight *= scale
    data = config_lib.DataConfig(
      name=dataset,
      image_size=8 if dataset == 'digits' else None,
      validation=0.1 if validation else 0,
    )
    groups = ('encoder', 'critic')
  slow = config_lib.OptimizerConfig(learning_rate=1e-3, every=condition.updates)
  adversary = config_lib.OptimizerConfig(learning_rate=1e-3)
  return config_lib.ExperimentConfig(
    objective=objective,
    data=data,
    optimizer=dataclasses.replace(adversary),
    groups=dict.fromkeys(groups, slow)
    | {'adversary': dataclasses.replace(adversary, **condition.adversary)},
    batch_size=batch_size,
    steps=steps * condition.updates,
  )


def train(
  config: config_lib.ExperimentConfig,
  objective: Objective,
  data: Mapping[str, np.ndarray],
  seeds: Sequence[int],
  run_dir: str,
  *,
  show_progress: bool = True,
) -> step_lib.TrainState:
  """Trains all seeds of a condition in one compiled program, or continues them.

  Args:
    config: the run, but for its seed.
    objective: made of it.
    data: arrays of the same first axis.
    seeds: of the runs.
    run_dir: the folder of their checkpoints and metrics.
    show_progress: show a bar, or lines.

  Returns:
    The final states, with a leading axis of seeds.

  Raises:
    FloatingPointError: a metric is not finite.
  """
  example = {name: values[:2] for name, values in data.items()}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), example)
  groups = {k: v for k, v in config.groups.items() if k in params}
  return loop.fit(
    objective,
    step_lib.make_optimizer(config.optimizer, groups, params),
    data,
    run_dir,
    loop.Settings.of(config, show_progress=show_progress),
    runs=grid.Runs(seeds),
  )


def measure_codes(
  objective: Objective,
  states: step_lib.TrainState,
  train_set: Any,
  test_set: Any,
  batch_size: int,
) -> list[dict[str, float]]:
  """What became of the codes, for each seed.

  Args:
    objective: of Deep InfoMax.
    states: of R runs.
    train_set: images and labels, of which the probe fits the first 10,000.
    test_set: held out images and labels.
    batch_size: images whose pairs the mutual information is of.

  Returns:
    'mmd', of at most 2,000 held-out codes (of a stochastic encoder, sampled)
    and as many draws of N(0, I), without unit; 'variance', the mean over
    dimensions; 'total_correlation' in nats, see there; 'probe', the linear
    probe's test accuracy on the (mean) code; 'mi', the bound on held-out
    batches, in nats, normalised by each batch's own statistics as in training.
  """

  # Images are arguments: XLA would fold constants of a whole data set.
  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, 0, None, None))
  def encode(
    params: PyTree,
    model_state: PyTree,
    rng: jax.Array,
    train_images: jax.Array,
    test_images: jax.Array,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    def features(images: jax.Array) -> dict[str, jax.Array]:
      return objective.encode(params, model_state, {'image': images})

    test = features(test_images)
    sample = test['y']
    if 'log_variance' in test:
      noise = jax.random.normal(rng, sample.shape)
      sample += jnp.exp(test['log_variance'] / 2) * noise
    return features(train_images)['y'], test['y'], sample

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, None))
  def information(
    params: PyTree, model_state: PyTree, parts: jax.Array
  ) -> jax.Array:
    def bound(part: jax.Array) -> jax.Array:
      # As in training: running statistics lag behind moving codes.
      _, (terms, _) = objective.loss(
        params, model_state, {'image': part}, jax.random.key(0)
      )
      return terms['mi/local']

    return jax.lax.map(bound, parts).mean()

  variables = (states.params, states.model_state)
  rngs = jax.random.split(jax.random.key(0), len(states.step))
  codes = jax.device_get(
    encode(*variables, rngs, train_set.inputs[:_PROBED], test_set.inputs)
  )
  count = len(test_set.inputs) // batch_size
  parts = test_set.inputs[: count * batch_size].reshape(
    count, batch_size, *test_set.inputs.shape[1:]
  )
  mi = jax.device_get(information(*variables, parts))
  protocol = probes_lib.Protocol(seeds=1)
  rows = []
  for train_codes, test_codes, sample, bound in zip(*codes, mi, strict=True):
    accuracy = probes_lib.linear_probe(
      probes_lib.Examples(train_codes, train_set.labels['class'][:_PROBED]),
      probes_lib.Examples(test_codes, test_set.labels['class']),
      protocol,
    ).accuracies[0]
    rows.append(
      closeness(sample) | {'probe': float(accuracy), 'mi': float(bound)}
    )
  return rows


def closeness(codes: np.ndarray) -> dict[str, float]:
  """How near codes are to N(0, I), and their dimensions to independence.

  Args:
    codes: shape [n, D].

  Returns:
    'mmd', 'variance' and 'total_correlation', see `measure_codes`.
  """
  prior = prior_losses.sample_prior(jax.random.key(1), 'gaussian', codes.shape)
  return {
    'mmd': float(_mmd(jnp.asarray(codes[:_COMPARED]), prior[:_COMPARED])),
    'variance': float(np.var(codes, axis=0).mean()),
    'total_correlation': total_correlation(codes),
  }


_mmd = jax.jit(prior_losses.mmd, static_argnames='bandwidths')


def measure_points(
  objective: Objective, states: step_lib.TrainState, density: str, count: int
) -> list[dict[str, float]]:
  """What became of the generator, for each seed.

  Args:
    objective: of the generator.
    states: of R runs.
    density: that it imitates.
    count: points to generate, and to compare with.

  Returns:
    'mmd' to held-out points, and of round modes 'modes' and 'near', see
    `mode_coverage`.
  """
  truth = points_lib.load(density, 'test', count)
  encode = jax.jit(jax.vmap(objective.encode, in_axes=(0, 0, None)))
  batch = {'point': jnp.asarray(truth)}
  samples = np.asarray(
    encode(states.params, states.model_state, batch)['point']
  )
  return [_near(x, truth, density) for x in samples]


def _near(x: np.ndarray, truth: np.ndarray, density: str) -> dict[str, float]:
  mmd = _mmd(jnp.asarray(x), jnp.asarray(truth), bandwidths=_POINT_BANDWIDTHS)
  row = {'mmd': float(mmd)}
  target = points_lib.find(density)
  if not isinstance(target, points_lib.Mixture):
    return row
  first = target.covariances[0, 0, 0]
  if np.allclose(target.covariances, first * np.eye(x.shape[1])):
    std = float(np.sqrt(first))
    row['modes'], row['near'] = mode_coverage(x, target.means, std)
  return row


def priors(
  workdir: str,
  *,
  conditions: Sequence[str] | None = None,
  points: bool = False,
  dataset: str | None = None,
  seeds: Sequence[int] = (0, 1, 2),
  steps: int | None = None,
  batch_size: int | None = None,
  scale: float = 1.0,
  validation: bool = False,
  show_progress: bool = True,
) -> dict[str, Any]:
  """Trains and measures every condition that `workdir` does not hold yet.

  Args:
    workdir: the folder of the results, one file a condition.
    conditions: which; all of them if None.
    points: generate points, rather than encode images.
    dataset: 'digits' or another set of images; with `points`, a density. None
      takes 'digits' and 'ring'.
    seeds: repetitions.
    steps: that the encoder takes; None for 500, and 2,000 of the generator.
    batch_size: examples a step; None for 96, and 256 points.
    scale: multiplies the prior's weight in every condition; of images.
    validation: measure on a tenth of the training images, held out, instead of
      the test images.
    show_progress: show it.

  Returns:
    What priors.json holds; 'rows' has one a condition and seed, 'floor' what
    samples of the prior itself get.

  Raises:
    ValueError: an argument is not accepted, or `workdir` holds other runs.
    FloatingPointError: a metric is not finite.
  """
  if not seeds:
    raise ValueError('priors needs at least one seed.')
  conditions = tuple(conditions or (POINT_CONDITIONS if points else CONDITIONS))
  dataset = dataset or ('ring' if points else 'digits')
  checks.check_range('scale', scale, '(0, inf)')
  if points and (validation or scale != 1):
    raise ValueError('scale and validation are of images, not of points.')
  settings: dict[str, Any] = {
    'points': points,
    'dataset': dataset,
    'steps': (2000 if points else 500) if steps is None else steps,
    'batch_size': (256 if points else 96) if batch_size is None else batch_size,
    'scale': scale,
    'validation': validation,
  }
  configs = {name: condition_config(name, **settings) for name in conditions}
  for config in configs.values():
    config_lib.check(config)
  data = _load(next(iter(configs.values())), points, dataset, show_progress)
  _adopt(workdir)
  rows, seconds = [], 0.0
  for number, (name, config) in enumerate(configs.items(), 1):
    with progress.Progress(show_progress, stderr=False) as shown:
      shown.say(f'{name} ({number} of {len(configs)})')
    result = _condition(name, config, data, seeds, workdir, show_progress)
    rows += result['rows']
    seconds += result['seconds']
  report = settings | {
    'note': data.note,
    'seeds': list(seeds),
    'seconds': seconds,
    **provenance.session(),
    'total_correlation': 'Gaussian: -1/2 ln det of the correlations, nats',
    'floor': data.floor,
    'summary': {name: _summary(rows, name) for name in configs},
    'rows': rows,
    'configs': {name: _plain(config) for name, config in configs.items()},
  }
  if points:
    del report['total_correlation']
  files.write_json(os.path.join(workdir, 'priors.json'), report)
  return report


class _Data(NamedTuple):
  """What all conditions train on and are measured on.

  Attributes:
    arrays: to train on.
    parts: (training, test) examples of images; () of points.
    density: the name of the points' density; '' of images.
    floor: what samples of the prior itself get.
    note: on the data.
  """

  arrays: Mapping[str, np.ndarray]
  parts: tuple[Any, ...]
  density: str
  floor: dict[str, float]
  note: str


def _load(
  config: config_lib.ExperimentConfig,
  points: bool,
  dataset: str,
  show_progress: bool,
) -> _Data:
  if points:
    count = config_lib.PointConfig().count
    arrays = {'point': points_lib.load(dataset, 'train', count)}
    fresh = points_lib.load(dataset, 'train', 2000, seed=1)
    truth = points_lib.load(dataset, 'test', 2000)
    return _Data(arrays, (), dataset, _near(fresh, truth, dataset), '')
  train_set, test_set = (
    data_lib.load(config.data, split, progress=show_progress)
    for split in ('train', 'validation' if config.data.validation else 'test')
  )
  shape = (len(test_set.inputs), _CODE)
  draws = prior_losses.sample_prior(jax.random.key(2), 'gaussian', shape)
  floor = closeness(np.asarray(draws))
  arrays = {'image': train_set.inputs}
  return _Data(arrays, (train_set, test_set), '', floor, test_set.note)


def _condition(
  name: str,
  config: config_lib.ExperimentConfig,
  data: _Data,
  seeds: Sequence[int],
  workdir: str,
  show_progress: bool,
) -> dict[str, Any]:
  """Trains and measures a condition, unless its file is there."""
  path = os.path.join(workdir, 'conditions', f'{name}.json')
  settings = {'seeds': list(seeds), 'config': _plain(config)}
  result = _finished(path, settings)
  if result is not None:
    return result
  started = time.monotonic()
  objective = (
    make(config.objective)
    if data.density
    else config_lib.make_objective(config)
  )
  run_dir = os.path.join(workdir, 'conditions', name)
  _claim(run_dir, settings)
  states = train(
    config, objective, data.arrays, seeds, run_dir, show_progress=show_progress
  )
  if data.density:
    rows = measure_points(objective, states, data.density, 2000)
  else:
    rows = measure_codes(
      objective, states, data.parts[0], data.parts[1], config.batch_size
    )
  result = settings | {
    'seconds': time.monotonic() - started,
    'rows': [
      {'condition': name, 'seed': seed} | row
      for seed, row in zip(seeds, rows, strict=True)
    ],
  }
  files.write_json(path, result)
  return result


def _adopt(workdir: str) -> None:
  """Makes the folder of conditions, from that of earlier versions if there."""
  old, new = (os.path.join(workdir, name) for name in ('cells', 'conditions'))
  if os.path.isdir(old) and not os.path.exists(new):
    os.rename(old, new)
  os.makedirs(new, exist_ok=True)


def _plain(config: config_lib.ExperimentConfig) -> Any:
  """The config as a JSON file gives it back."""
  return json.loads(json.dumps(config_lib.to_json(config)))


def _claim(run_dir: str, settings: dict[str, Any]) -> None:
  """Writes what a condition's runs are, or raises where others were begun."""
  path = os.path.join(run_dir, 'runs.json')
  if _finished(path, settings) is None:
    files.make_folder(run_dir)
    files.write_json(path, settings)


def _finished(path: str, settings: dict[str, Any]) -> dict[str, Any] | None:
  """Reads a condition's file, if there is one; raises if it is of another."""
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    result = json.load(file)
  result['config'] = config_lib.migrate(result['config'])
  for row in result.get('rows', ()):
    # What earlier versions call it.
    if 'cell' in row:
      row['condition'] = row.pop('cell')
  if any(result[key] != value for key, value in settings.items()):
    raise ValueError(
      f'{path!r} holds a condition of other settings or seeds: choose another '
      'folder, or delete that file.'
    )
  return result


def _summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
  """Mean and standard deviation over seeds of every measure."""
  own = [row for row in rows if row['condition'] == name]
  summary = {}
  for key in own[0]:
    if key not in ('condition', 'seed'):
      values = [row[key] for row in own]
      std = float(np.std(values, ddof=1)) if len(values) > 1 else None
      summary[key] = {'mean': float(np.mean(values)), 'std': std}
  return summary


_COLUMNS = {
  'mmd': ('MMD² x 1000', 1000.0, 1),
  'variance': ('variance', 1.0, 2),
  'total_correlation': ('total correlation, nats', 1.0, 2),
  'probe': ('probe %', 100.0, 1),
  'mi': ('JSD bound, nats', 1.0, 3),
  'modes': ('modes', 1.0, 1),
  'near': ('near a mode %', 100.0, 1),
}


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Means and standard deviations over seeds, a row a condition.

  Args:
    report: what `priors` returned.
  """
  shown = rich.table.Table(
    title=f'{report["dataset"]}, {len(report["seeds"])} seeds, '
    f'{report["steps"]:,} steps of the '
    + ('generator' if report['points'] else 'encoder')
    + (f', weights x {report["scale"]:g}' if report['scale'] != 1 else '')
    + (', validation' if report['validation'] else ''),
    title_justify='left',
    box=rich.box.SIMPLE,
  )
  summary = report['summary']
  keys = [k for k in _COLUMNS if k in next(iter(summary.values()))]
  shown.add_column('divergence')
  for key in keys:
    shown.add_column(_COLUMNS[key][0], justify='right')

  def text(key: str, mean: float | None, std: float | None) -> str:
    _, scale, digits = _COLUMNS[key]
    if mean is None:
      return ''
    value = f'{scale * mean:.{digits}f}'
    return value if std is None else f'{value} ± {scale * std:.{digits}f}'

  for name, found in summary.items():
    shown.add_row(
      name, *(text(k, found[k]['mean'], found[k]['std']) for k in keys)
    )
  floor = report['floor']
  shown.add_row(
    'draws of the target', *(text(k, floor.get(k), None) for k in keys)
  )
  return shown


_COMMAND = Command(
  'studies.priors',
  __doc__,
  old={'cells': '--conditions', 'toy': '--points'},
)
_WORKDIR = _COMMAND.folder('The folder of the results.')
_ARGUMENTS = {
  'conditions': _COMMAND.items(
    'conditions', None, f'Some of {", ".join(CONDITIONS)}.'
  ),
  'points': _COMMAND.boolean('points', False, 'Generate points in the plane.'),
  'dataset': _COMMAND.string(
    'dataset', None, 'digits or mnist; with --points, ring or mixture_2d.'
  ),
  'seeds': _COMMAND.items('seeds', (0, 1, 2), 'A run each.', int),
  'steps': _COMMAND.integer('steps', None, 'Of the encoder or generator.'),
  'batch_size': _COMMAND.integer('batch_size', None, 'Examples a step.'),
  'scale': _COMMAND.real('scale', 1.0, "Multiplies the priors' weights."),
  'validation': _COMMAND.boolean(
    'validation', False, 'Measure on held-out training images.'
  ),
}


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  arguments: dict[str, Any] = {k: flag.value for k, flag in _ARGUMENTS.items()}
  report = priors(_WORKDIR.value, **arguments)
  show(table(report), os.path.join(_WORKDIR.value, 'priors.json'))


if __name__ == '__main__':
  main()
