"""What a run is made of, and its JSON form.

A run is a config: a dataclass that holds the objective's own config, the data,
the optimizers and the length. It is loaded from a Python file, overridden with
`--config.a.b=value`, and saved as JSON beside the run.
"""

import dataclasses
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import checks, files
from dim_jax.data import augment
from dim_jax.data.config import (
  DataConfig,
  PointConfig,
  SoundConfig,
  TextConfig,
)
from dim_jax.objective import Objective


@dataclasses.dataclass(kw_only=True)
class OptimizerConfig:
  """Adam for one parameter group."""

  ranges: ClassVar[Mapping[str, str]] = {
    'learning_rate': '(0, inf)',
    'decay': '(0, 1]',
    'decay_every': 'int [1, inf)',
    'b1': '[0, 1)',
    'b2': '[0, 1)',
    'weight_decay': '[0, inf)',
    'clip': '(0, inf) or None',
    'clip_weights': '(0, inf) or None',
    'every': 'int [1, inf)',
  }
  learning_rate: float = 1e-4
  decay: float = 1.0
  """The learning rate times this at every `decay_every` of the group's updates,
  in stairs."""
  decay_every: int = 1
  b1: float = 0.5
  """Decay of the first moment (0.5 in the Deep InfoMax code)."""
  b2: float = 0.999
  weight_decay: float = 0.0
  """Decoupled, as in AdamW."""
  clip: float | None = None
  """Largest global norm of this group's gradient; None does not clip."""
  clip_weights: float | None = None
  """Largest size of any of this group's weights and biases, which each update
  ends by cutting off; 0.01 for the adversary of a Wasserstein GAN."""
  every: int = 1
  """The group is updated at steps 0, `every`, 2 `every`, ...; its gradients of
  the steps between are dropped, not added up. With every=5 for 'encoder'
  and 'critic', 'adversary' takes five steps to one of theirs."""


@dataclasses.dataclass(kw_only=True)
class InformationConfig:
  """What features keep of the input and of labels beyond stated noise.

  It is measured while they train, see `evaluation.information.monitor`; the
  report draws the information plane.
  """

  ranges: ClassVar[Mapping[str, str]] = {
    'every': 'int [1, inf) or None',
    'examples': 'int [2, inf)',
    'noise': '(0, inf)',
  }
  every: int | None = None
  """Steps between two measurements, a multiple of `log_every`; None for
  `log_every` itself."""
  examples: int = 1000
  """n, of the validation images, or without any of the training images, always
  the same; labelled ones, if any are. The time grows with its square, and no
  lower bound exceeds ln n nats."""
  noise: float = 2.0
  """Standard deviation of the noise, relative to that of the features; more
  where the lower bound is near ln n."""
  features: tuple[str, ...] | None = None
  """Of the encoder; None for those that evaluation probes."""


@dataclasses.dataclass(kw_only=True)
class ExperimentConfig:
  """A run: `dim-jax train` does what it says, from the seed alone."""

  ranges: ClassVar[Mapping[str, str]] = {
    'average': '[0, 1) or None',
    'batch_size': 'int [1, inf)',
    'accumulate': 'int [1, inf)',
    'steps': 'int [1, inf)',
    'seed': 'int [0, 2**31)',
    'log_every': 'int [1, inf)',
    'checkpoint_every': 'int [1, inf)',
    'keep': 'int [1, inf)',
  }
  objective: Any
  """The objective's own config; its type chooses the objective."""
  data: DataConfig | SoundConfig | PointConfig | TextConfig = dataclasses.field(
    default_factory=DataConfig
  )
  optimizer: OptimizerConfig = dataclasses.field(
    default_factory=OptimizerConfig
  )
  """For every parameter group that `groups` does not name."""
  groups: dict[str, OptimizerConfig] = dataclasses.field(default_factory=dict)
  """Optimizers of single parameter groups, such as 'probe'."""
  average: float | None = None
  """Decay of a moving average of all parameters (Polyak), which evaluation then
  uses instead of the last ones. The statistics of batch normalisation are those
  of the last parameters, from which the average differs the less, the lower the
  learning rate is at the end."""
  init_from: str | None = None
  """A run's folder, whose parameter groups this one starts from where it has
  them too; frozen modules of Greedy InfoMax need it."""
  batch_size: int = 64
  """Global: over all processes and devices."""
  accumulate: int = 1
  """Split the batch into this many micro-batches, whose gradients are averaged:
  less memory, but a contrastive loss then has the negatives of one micro-batch
  alone, which a run tells at its start; `objective.memory.micro_batch` of Deep
  InfoMax keeps them all. Batch statistics are those of one micro-batch after
  another, and a cross-entropy of few labels weighs less, as some have none. A
  step is still one of the optimizer."""
  steps: int = 1000
  seed: int = 0
  log_every: int = 100
  """Steps between two lines of metrics; they run as one compiled scan."""
  checkpoint_every: int = 1000
  """Steps between two checkpoints, a multiple of `log_every`."""
  keep: int = 2
  """How many of the latest checkpoints stay on disk."""
  parallel: str = 'jit'
  """'jit' shards over a mesh of all devices; 'pmap' maps over local ones;
  'pipeline' gives each gradient-isolated module of Greedy InfoMax a device."""
  zero: bool = False
  """Each device keeps a part of the optimizer's state instead of all of it, and
  sends what it makes of it to the others (ZeRO, stage 1); for 'jit'. The steps
  are the same, and checkpoints go on with or without it."""
  information: InformationConfig | None = None
  """Measure information during training; None does not. It changes nothing in
  what is trained."""
  tensorboard: bool = False
  """Write TensorBoard events too (extra `[tensorboard]`)."""
  paper: dict[str, Any] | None = None
  """The published row that this run reproduces: its source and row, and a
  probe's accuracy in percent by feature, or a classifier's errors in percent by
  name ('error_12'). Reports print the gap to it."""

  def __post_init__(self):
    checks.check_fields(self, self.ranges)


@dataclasses.dataclass(kw_only=True)
class SweepConfig:
  """Runs that differ in the weight of rate, beta, and in their seed alone.

  `dim-jax train` trains all of them in one compiled program.
  """

  ranges: ClassVar[Mapping[str, str]] = {
    'betas': '[0, inf)',
    'seeds': 'int [0, 2**31)',
  }

  run: ExperimentConfig
  """What they share; its own beta and seed are not used."""
  betas: tuple[float, ...]
  seeds: tuple[int, ...] = (0, 1, 2)


def check(config: ExperimentConfig | SweepConfig) -> None:
  """Checks that every field can be used.

  Args:
    config: the config, with its overrides applied.

  Raises:
    ValueError: one cannot; names it, and what is accepted.
  """
  if isinstance(config, SweepConfig):
    for name, interval in config.ranges.items():
      if not getattr(config, name):
        raise ValueError(f'{name} must have one value at least, got none.')
      for i, value in enumerate(getattr(config, name)):
        checks.check_range(f'{name}[{i}]', value, interval)
    if config.run.information:
      raise ValueError(
        'run.information is not measured in a sweep: set it to None, and train '
        'single runs for it.'
      )
    return check(config.run)
  to_json(config)  # Raises where it could not be saved.
  # Overrides set fields after construction, so its checks run once more.
  config.__post_init__()
  for group, optimizer in {'': config.optimizer, **config.groups}.items():
    where = f'groups.{group}' if group else 'optimizer'
    checks.check_fields(optimizer, optimizer.ranges, f'{where}.')
  checks.check_choice('parallel', config.parallel, ('jit', 'pmap', 'pipeline'))
  if isinstance(config.data, augment.Config):
    augment.check(config.data)
  if config.checkpoint_every % config.log_every:
    raise ValueError(
      f'checkpoint_every ({config.checkpoint_every}) must be a multiple of '
      f'log_every ({config.log_every}): a checkpoint ends a logged interval.'
    )
  if config.batch_size % config.accumulate:
    raise ValueError(
      f'accumulate={config.accumulate} does not divide batch_size='
      f'{config.batch_size} into micro-batches of one size: choose a divisor.'
    )
  for name in ('labelled', 'labels_per_class'):
    kept = getattr(config.data, name, None)
    if kept is not None and getattr(config.data, 'stream', False):
      raise ValueError(
        f'data.{name} needs all labels at once, which data.stream=True does '
        f'not read: set data.{name} to None, or data.stream to False.'
      )
  rows = getattr(config.objective, 'vocabulary', None)
  if isinstance(config.data, TextConfig) and rows != config.data.vocabulary:
    raise ValueError(
      f'objective.vocabulary is {rows} and data.vocabulary '
      f'{config.data.vocabulary}: set both to one number.'
    )
  if config.information:
    _check_information(config.information, config.log_every)
  if config.parallel == 'pipeline':
    _check_pipeline(config)
  module = importlib.import_module(type(config.objective).__module__)
  if hasattr(module, 'check_optimizers'):
    module.check_optimizers(config.objective, config.groups, config.optimizer)


def _check_information(config: InformationConfig, log_every: int) -> None:
  checks.check_fields(config, config.ranges, 'information.')
  if config.every and config.every % log_every:
    raise ValueError(
      f'information.every ({config.every}) must be a multiple of log_every '
      f'({log_every}), or None for every logged step.'
    )


def _check_pipeline(config: ExperimentConfig) -> None:
  """Raises where the devices of a pipeline cannot do what a field asks for."""
  if config.accumulate > 1:
    raise ValueError(
      f'accumulate={config.accumulate} is not written for '
      "parallel='pipeline': set accumulate=1, or parallel='jit'."
    )
  probe = config.groups.get('probe', config.optimizer)
  if probe.clip is not None:
    raise ValueError(
      f'the gradient of the probe is clipped (clip={probe.clip}), but with '
      "parallel='pipeline' its parts are on several devices: set "
      "groups['probe'] to an OptimizerConfig without clip."
    )


def make_objective(
  config: ExperimentConfig, axis_name: str | None = None
) -> Objective:
  """Builds the objective that the type of `config.objective` chooses.

  Args:
    config: the run's config.
    axis_name: the pmapped axis, for the pmap form.

  Returns:
    The objective.

  Raises:
    ValueError: it is no objective's config, or a field cannot be used.
  """
  kind = type(config.objective)
  module = importlib.import_module(kind.__module__)
  if not hasattr(module, 'make'):
    raise ValueError(
      'objective must be a Config of a module with a function `make`, such as '
      f'dim_jax.objectives.dim, got {kind.__module__}.{kind.__qualname__}: see '
      'dim_jax.objective for what `make` returns.'
    )
  return _promoting(module.make(config.objective, axis_name=axis_name))


def _promoting(part: Any) -> Any:
  """Lets the functions of an objective mix dtypes, whatever the user's setting.

  jax_numpy_dtype_promotion='strict' would refuse them; Optax's Adam, too, needs
  the usual promotion.
  """
  if callable(part):

    @functools.wraps(part)
    def run(*args: Any, **kwargs: Any) -> Any:
      with jax.numpy_dtype_promotion('standard'):
        return part(*args, **kwargs)

    return run
  if not isinstance(part, tuple):
    return part
  parts = map(_promoting, part)
  return type(part)(*parts) if hasattr(part, '_fields') else tuple(parts)


def check_path(config: Any, path: str) -> None:
  """Raises ValueError where `path`, such as 'data.name', is no field.

  Args:
    config: a dataclass or dictionary.
    path: field names joined by dots.
  """
  for i, name in enumerate(names := path.split('.')):
    if isinstance(config, dict):
      accepted = list(config)
    elif dataclasses.is_dataclass(config):
      accepted = [f.name for f in dataclasses.fields(config)]
    else:
      accepted = []
    if name not in accepted:
      # The same name one level further down is nearer than a similar one.
      nested = {k: getattr(config, k, None) for k in accepted}
      close = [
        f'{k}.{name}'
        for k, inner in nested.items()
        if dataclasses.is_dataclass(inner)
        and name in {field.name for field in dataclasses.fields(inner)}
      ]
      close += difflib.get_close_matches(name, accepted, 1)
      hint = f' Did you mean {close[0]!r}?' if close else ''
      raise ValueError(
        f'No field {".".join(names[: i + 1])!r}: {type(config).__name__} has '
        f'{accepted}.{hint}'
      )
    config = config[name] if isinstance(config, dict) else getattr(config, name)


def _type_name(kind: type) -> str:
  """Returns 'module:name', or raises where nothing is to be found by it."""
  name = kind.__module__
  if name == '__main__':
    # What `python -m` runs can be imported by its own name.
    spec = getattr(sys.modules[name], '__spec__', None)
    name = spec.name if spec else name
  try:
    found = getattr(importlib.import_module(name), kind.__qualname__, None)
  except ImportError:
    found = None
  if name == '__main__' or (found is not kind and kind.__module__ == name):
    found = None
  if found is None:
    # `runpy` calls the file of a config so.
    where = 'the file of the config' if name == '<run_path>' else repr(name)
    raise ValueError(
      f'{kind.__qualname__} is defined in {where}, from where a saved run '
      'cannot load it again: move it to the top level of a module that can be '
      'imported (another .py file beside it), and import it.'
    )
  return f'{name}:{kind.__qualname__}'


def to_json(config: Any) -> Any:
  """Turns a config into JSON data; dataclasses carry 'module:name' as type."""
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    # A Flax module's own fields, less the two that Linen adds.
    skip = ('parent', 'name') if isinstance(config, nn.Module) else ()
    return {'type': _type_name(type(config))} | {
      f.name: to_json(getattr(config, f.name))
      for f in dataclasses.fields(config)
      if f.name not in skip and f.init
    }
  if isinstance(config, dict):
    return {key: to_json(value) for key, value in config.items()}
  if isinstance(config, list | tuple):
    return [to_json(value) for value in config]
  if config is None or isinstance(config, bool | int | float | str):
    return config
  if config in (jnp.float32, jnp.bfloat16):
    return jnp.dtype(config).name
  raise ValueError(
    f'A config holds dataclasses, Flax modules, dictionaries, sequences, '
    f'numbers, strings, dtypes and None; got {type(config).__name__}: '
    f'{config!r}.'
  )


class Group(NamedTuple):
  """Fields of an old config that later became a nested one.

  Attributes:
    field: the nested config's field.
    type: its type, 'module:name'.
    names: its fields by their old names.
    present: of the old config's JSON, whether the group was used; where it was
      not, the field is None.
  """

  field: str
  type: str
  names: Mapping[str, str]
  present: Callable[[Mapping[str, Any]], bool] = lambda old: True


# What older versions wrote. Types are by their old 'module:name'; in the other
# tables, the type is today's. Each line stays for as long as runs have it.
TYPES: dict[str, str] = {
  'dim_jax.objectives.stein:Config': 'dim_jax.objectives.energy_model:Config',
  **{
    f'experiments.{module}:ToyConfig': 'experiments.studies.priors:PointsConfig'
    for module in ('priors', 'studies.priors')
  },
  **{
    f'dim_jax.networks.modules:{name}': (
      f'dim_jax.networks.greedy_modules:{name}'
    )
    for name in ('ResNetModule', 'PatchModule', 'ConvModule')
  },
  **{
    f'dim_jax.objectives.dim_terms.{name}': f'dim_jax.objectives.terms.{name}'
    for name in (
      'classifiers:Supervised',
      'coordinates:Coordinates',
      'hidden_patches:Mask',
      'prior_matching:Prior',
    )
  },
}
"""Today's type of each type that moved or has another name."""
FIELDS: dict[str, dict[str, str | None]] = {
  'dim_jax.config:ExperimentConfig': {'players': 'groups'},
  'dim_jax.objectives.dim:Config': {
    'local_tap': 'local_feature',
    'map_tap': 'map_feature',
    'global_tap': 'global_feature',
    'probe_taps': 'probe_features',
  },
  'dim_jax.objectives.vib:Config': {'tap': 'feature'},
  'dim_jax.objectives.gim:Config': {'walls': 'stop_gradient_after'},
}
"""By type, today's name of each field that has another; None: it is gone."""
VALUES: dict[str, dict[str, dict[Any, Any]]] = {}
"""By type and today's field, today's value of each value that has another."""
_TERMS = 'dim_jax.objectives.terms.'
GROUPS: dict[str, tuple[Group, ...]] = {
  'dim_jax.objectives.vib:Config': (
    Group(
      'budget',
      'dim_jax.objectives.vib:Budget',
      {'budget': 'nats', 'constraint': 'constraint', 'dual_rate': 'dual_rate'},
      lambda old: old.get('budget') is not None,
    ),
  ),
  'dim_jax.objectives.dim:Config': (
    Group(
      'prior',
      f'{_TERMS}prior_matching:Prior',
      {
        'prior': 'distribution',
        'prior_weight': 'weight',
        'divergence': 'divergence',
        'gradient_penalty': 'gradient_penalty',
        'adversary_units': 'adversary_units',
        'spectral_norm': 'spectral_norm',
        'capacity': 'budget',
      },
      lambda old: (
        old.get('prior', '') is not None and old.get('prior_weight', 0.1) > 0
      ),
    ),
    Group(
      'mask',
      f'{_TERMS}hidden_patches:Mask',
      {
        'mask': 'kind',
        'mask_keep': 'keep',
        'mask_patch': 'patch',
        'mask_fill': 'fill',
        'mask_targets': 'targets',
        'mask_evaluation': 'evaluation',
      },
      lambda old: old.get('mask') is not None,
    ),
    Group(
      'coordinates',
      f'{_TERMS}coordinates:Coordinates',
      {
        'coordinates': 'kind',
        'coordinate_weight': 'weight',
        'coordinate_units': 'units',
      },
      lambda old: old.get('coordinates') is not None,
    ),
    Group(
      'supervised',
      f'{_TERMS}classifiers:Supervised',
      {
        'supervised_weight': 'weight',
        'decoder_units': 'units',
        'decoder_tap': 'feature',
      },
      lambda old: old.get('supervised_weight', 0.0) > 0,
    ),
    Group(
      'memory',
      'dim_jax.objectives.dim:Memory',
      {'score_chunk': 'score_chunk', 'micro_batch': 'micro_batch'},
      lambda old: any(
        old.get(name) is not None for name in ('score_chunk', 'micro_batch')
      ),
    ),
  ),
}
"""By type, the nested configs that took in fields of it."""


def _migrated(data: dict[str, Any]) -> dict[str, Any]:
  """One dataclass's JSON under today's names; those inside are left alone."""
  kind = TYPES.get(data['type'], data['type'])
  data = data | {'type': kind}
  for group in GROUPS.get(kind, ()):
    # A group may have the name of a field that it took in.
    old = {
      name: data[name]
      for name in group.names
      if name in data and not isinstance(data[name], dict)
    }
    if not old:
      continue
    nested = {'type': group.type} | {group.names[k]: v for k, v in old.items()}
    present = group.present(data)
    data = {k: v for k, v in data.items() if k not in old}
    data[group.field] = nested if present else None
  names = FIELDS.get(kind, {})
  data = {
    new: value
    for name, value in data.items()
    if (new := names.get(name, name)) is not None
  }
  for name, values in VALUES.get(kind, {}).items():
    value = data.get(name)
    # A value that is today's already may be a list, which no key is.
    if isinstance(value, str | int | float) and value in values:
      data[name] = values[value]
  return data


def migrate(data: Any) -> Any:
  """Rewrites a config's JSON as this version writes it.

  Args:
    data: what `to_json` gave, perhaps of an older version: types and fields
      that moved or have other names get today's, and new fields their defaults.

  Raises:
    ValueError: it names a type or field that no version had.
  """
  return to_json(from_json(data))


def from_json(data: Any) -> Any:
  """Builds the config that `to_json` gave, also in an older version.

  Args:
    data: JSON data; sequences come back as tuples.

  Raises:
    ValueError: it names a type or field that no version had.
  """
  if isinstance(data, list):
    return tuple(from_json(value) for value in data)
  if not isinstance(data, dict):
    return data
  if 'type' not in data:
    return {k: from_json(v) for k, v in data.items()}
  data = _migrated(data)
  fields = {k: from_json(v) for k, v in data.items() if k != 'type'}
  module, _, name = data['type'].partition(':')
  try:
    kind = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'The config names {data["type"]!r}, which does not import here '
      f'({error}): run the command in the folder of that module, or name the '
      'folder in PYTHONPATH.'
    ) from error
  if not dataclasses.is_dataclass(kind):
    raise ValueError(f'{data["type"]!r} is no dataclass or Flax module.')
  accepted = [f.name for f in dataclasses.fields(kind)]
  if unknown := sorted(set(fields) - set(accepted)):
    raise ValueError(f'No field {unknown[0]!r}: {name} has {accepted}.')
  make: Any = kind
  return make(**fields)


def save(
  config: ExperimentConfig,
  run_dir: str | os.PathLike,
  input_shape: tuple[int, ...],
) -> None:
  """Writes `config.json` into the run's folder, whole or not at all.

  Args:
    config: the run's config.
    run_dir: its folder.
    input_shape: [H, W, C] of its images, [T] of its sound, [D] of its points or
      [2, L] of its lines, without which no network can be built again.
  """
  path = os.path.join(os.path.expanduser(run_dir), 'config.json')
  data = to_json(config) | {'input_shape': list(input_shape)}
  files.write_json(path, data, sync=True)


def load(
  run_dir: str | os.PathLike,
) -> tuple[ExperimentConfig, tuple[int, ...]]:
  """Reads what `save` wrote.

  Args:
    run_dir: the run's folder.

  Returns:
    The config, and [H, W, C] of the run's images, [T] of its sound, [D] of
    its points or [2, L] of its lines.

  Raises:
    FileNotFoundError: the folder is not a run.
    ValueError: the file names a type or field that does not exist here.
  """
  path = os.path.join(os.path.expanduser(run_dir), 'config.json')
  data = files.read_json(path)
  if not data:
    raise FileNotFoundError(
      f'{os.fspath(run_dir)!r} is not a run: it has no config.json. Give the '
      '--workdir of a run of dim-jax train.'
    )
  # Runs of images used to call it image_shape.
  name = 'input_shape' if 'input_shape' in data else 'image_shape'
  input_shape = tuple(data.pop(name))
  return from_json(data), input_shape
