r"""Greedy InfoMax, contrastive predictive coding, and their supervised twins.

An encoder is a list of modules. Gradient isolation stops the gradient behind a
module, and each segment of modules from one stop to the next has a loss of its
own at its end:

- a stop behind every module: Greedy InfoMax (GIM);
- no stop: contrastive predictive coding (CPC), one loss for the whole encoder;
- `loss='supervised'`: cross-entropy in place of InfoNCE, greedy or end to end.

The sum of the losses then gives each module exactly the gradient of its own
loss, zero from all others, so that one backward pass and one optimizer train
all modules at once. The modules are the parameter groups: `module_0`,
`module_1`, ..., and an online `probe` that reads each module's features and
sends nothing back.

Images are cut into overlapping patches, which go through the modules apart from
each other; the spatial mean of a patch's map is what a module predicts, from
the patches above it. Sound goes through as frames, which predict later frames.
A module that is an autoregressor (`context = True`, such as a GRU) predicts its
inputs from its outputs.

The metrics: 'module_M/infonce' (the loss, nats), 'module_M/ceiling' (nats) and
'module_M/accuracy' (a fraction) of each module that ends a segment, means over
the offsets; or 'module_M/cross_entropy' and '_accuracy'; and
'probe/module_M_accuracy' and '_loss'.

Löwe et al., Putting An End to End-to-End: Gradient-Isolated Learning of
Representations, NeurIPS 2019. https://arxiv.org/abs/1905.11786
van den Oord et al., Representation Learning with Contrastive Predictive Coding,
2018. https://arxiv.org/abs/1807.03748
"""

import dataclasses
import functools
import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random, scale
from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import cpc
from dim_jax.networks import greedy_modules, layers
from dim_jax.objective import Batch, Metrics, Objective, PyTree, Stage
from dim_jax.objectives import sharded_batch

LOSSES = ('infonce', 'supervised')


@dataclasses.dataclass(kw_only=True)
class Config:
  """Greedy InfoMax; the defaults are the paper's on images (Löwe et al. 2019).

  The paper's on sound: modules='sound', offsets=12, negatives=10.
  """

  modules: str | Any = 'resnet50'
  """A name of `networks.greedy_modules.MODULES`, or a sequence of Flax modules.
  One for images maps [P, h, w, C] to another map, or to [P, D]; one for sound
  [N, L, C] to fewer frames. One whose call takes `train` is told whether it
  trains, as dropout and batch normalisation need to know. One with the
  attribute `context = True` maps what a module predicts, [N, rows, columns, C]
  or [N, L, C], to contexts for it."""
  stop_gradient_after: tuple[int, ...] | None = None
  """Gradient isolation: behind which modules the gradient stops. None for all
  of them (GIM), () for none (CPC), (0, 2) for module_0 alone and module_1 with
  module_2."""
  loss: str = 'infonce'
  """'infonce', or 'supervised', the cross-entropy of a linear classifier on the
  mean over patches or frames."""
  depth: int | None = None
  """Use only this many modules, from the first; None for all."""
  frozen: int = 0
  """This many modules, from the first, are not trained; `init_from` of the run
  names the run that they come from."""
  pool: int = 1
  """Modules pass on the mean of this many neighbours along each axis of their
  map (or of this many frames)."""
  patch_size: int = 16
  """Pixels a side of the patches of images."""
  patch_stride: int = 8
  """Pixels between patches."""
  audio_std: float = 0.063
  """Waveforms in [-1, 1] are divided by it; LibriSpeech has 0.063."""
  offsets: int = 5
  """S: how many steps ahead are predicted, each with its own weights."""
  skip: int = 1
  """Rows of patches left out below the context, as neighbours share pixels."""
  negatives: int | None = 16
  """K: negatives of each prediction, drawn anew in every step; None contrasts
  with all targets in the batch, by one matrix product an offset."""
  negatives_of: int | None = None
  """Draw the negatives of an example from this many examples, itself and its
  neighbours in the batch; None for all of the batch. Of at most a device's
  share of the batch, as of the paper's code on several GPUs, no device needs
  the features of another, so that it scales to any number of them."""
  method: int = 1
  """How negatives of sound are drawn: 0, 1 or 2 of
  `losses.cpc.sequence_negatives`."""
  window: int | None = 128
  """Longer sequences predict within a random part of this many frames."""
  epsilon: float = 0.0
  """Of images: 1e-11 only to compare with the official code; see
  `losses.cpc.grid_infonce`."""
  remat: bool = False
  """Rows of patches go through a module one after another, and once more for
  its gradient: a step holds the maps inside of a module for one row at a time,
  and takes about a third longer."""
  dtype: str = 'float32'
  """Compute dtype of named modules, 'float32' or 'bfloat16'; parameters and
  scores stay float32."""
  num_classes: int = 10
  """Classes of the supervised loss, and of the online probe, a linear layer on
  every module's features that sees no gradient back; 0 for no probe. Examples
  labelled -1 are left out of both."""

  @property
  def title(self) -> str:
    """What this is called, such as 'CPC'; used by pages and tables."""
    modules = self.modules
    if isinstance(modules, str):
      modules = greedy_modules.MODULES[modules]()
    last = (self.depth or len(modules)) - 1
    # Frozen modules pass no gradient on; one is stopped behind the last anyway.
    stops = (
      range(last)
      if self.stop_gradient_after is None
      else self.stop_gradient_after
    )
    inner = sorted(i for i in {*stops, *range(self.frozen)} if i < last)
    supervised = self.loss == 'supervised'
    if inner == list(range(last)) and (
      inner or self.stop_gradient_after is None
    ):
      name = 'greedy supervised' if supervised else 'Greedy InfoMax'
    elif not inner:
      name = 'supervised' if supervised else 'CPC'
    else:
      behind = ', '.join(f'module_{i}' for i in inner)
      name = 'supervised' if supervised else 'InfoNCE'
      name += f', gradient stopped behind {behind}'
    return f'{name}, one after another' if self.frozen else name


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  check_choice('objective.loss', config.loss, LOSSES)
  check_choice('objective.dtype', config.dtype, ('float32', 'bfloat16'))
  check_choice('objective.method', config.method, (0, 1, 2))
  if isinstance(config.modules, str):
    check_choice('objective.modules', config.modules, greedy_modules.MODULES)
  check_fields(
    config,
    {
      'frozen': 'int [0, inf)',
      'pool': 'int [1, inf)',
      'patch_size': 'int [1, inf)',
      'patch_stride': 'int [1, inf)',
      'audio_std': '(0, inf)',
      'offsets': 'int [1, inf)',
      'skip': 'int [0, inf)',
      'negatives': 'int [1, inf) or None',
      'negatives_of': 'int [1, inf) or None',
      'window': 'int [1, inf) or None',
      'epsilon': '[0, inf)',
      'num_classes': 'int [0, inf)',
    },
    'objective.',
  )
  if config.loss == 'supervised' and not config.num_classes:
    raise ValueError(
      "objective.loss is 'supervised' and objective.num_classes 0: set it to "
      'how many classes the labels have.'
    )
  count = len(all_modules(config))
  if config.depth is not None and not 1 <= config.depth <= count:
    raise ValueError(
      f'objective.depth must be in 1..{count}, the number of modules, or None; '
      f'got {config.depth}.'
    )
  depth = config.depth or count
  if not 0 <= config.frozen < depth:
    raise ValueError(
      f'objective.frozen must be in 0..{depth - 1}, so that one of {depth} '
      f'modules is trained; got {config.frozen}.'
    )
  if not isinstance(config.stop_gradient_after, tuple | list | None):
    raise ValueError(
      'objective.stop_gradient_after must be None or a tuple of the modules '
      'that the gradient stops behind, such as (0, 2); got '
      f'{config.stop_gradient_after!r}.'
    )
  for number in config.stop_gradient_after or ():
    if not 0 <= number < count:
      raise ValueError(
        f'objective.stop_gradient_after has {number}; the gradient stops '
        f'behind modules 0..{count - 1}.'
      )


def all_modules(config: Config) -> tuple[nn.Module, ...]:
  """The encoder's modules, those beyond `depth` too.

  Args:
    config: names or holds them.

  Raises:
    ValueError: there is none, or something else than a Flax module.
  """
  if isinstance(config.modules, str):
    return greedy_modules.MODULES[config.modules](dtype=jnp.dtype(config.dtype))
  chosen = config.modules
  if not isinstance(chosen, list | tuple):
    chosen = (chosen,)
  others = [m for m in chosen if not isinstance(m, nn.Module)]
  if not chosen or others:
    raise ValueError(
      'objective.modules must be a name or a sequence of at least one Flax '
      f'module, got {others[0] if others else chosen!r}.'
    )
  return tuple(chosen)


def inputs(config: Config, batch: Batch) -> jax.Array:
  """What the first module sees.

  Args:
    config: patching, and the scale of waveforms.
    batch: 'image' [N, H, W, C], or 'audio' [N, T], int16 or in [-1, 1].

  Returns:
    [N, rows, columns, h, w, C], or [N, T, 1]; float32.

  Raises:
    ValueError: the batch has neither, in another shape or type, or the patches
      do not fit.
  """
  if 'image' in batch:
    images = layers.normalise_images(batch['image'])
    return layers.patches(images, config.patch_size, config.patch_stride)
  if 'audio' not in batch:
    raise ValueError(
      f"A batch must have 'image' or 'audio'; got {sorted(batch)}."
    )
  audio = batch['audio']
  if audio.ndim != 2:
    raise ValueError(
      f"'audio' must be [N, T], one channel of T samples, got shape "
      f'{audio.shape}; average the channels of stereo sound first.'
    )
  if not audio.shape[1]:
    raise ValueError(f"'audio' has no samples: its shape is {audio.shape}.")
  audio = scale.to_unit(audio)
  if not jnp.issubdtype(audio.dtype, jnp.floating):
    raise ValueError(
      f"'audio' must be int16, or floats in [-1, 1]; got {audio.dtype}."
    )
  return (audio.astype(jnp.float32) / config.audio_std)[:, :, None]


def is_context(module: nn.Module) -> bool:
  """Whether a module is an autoregressor, which predicts its own inputs."""
  return bool(getattr(module, 'context', False))


def positions(features: jax.Array) -> jax.Array:
  """What is predicted and probed: one vector a patch or frame, float32.

  Args:
    features: a module's, [N, rows, columns, h, w, C], [N, rows, columns, C] or
      [N, L, C].

  Returns:
    [N, rows, columns, C], the spatial means of the patches, or [N, L, C].
  """
  features = features.astype(jnp.float32)
  return features.mean((3, 4)) if features.ndim == 6 else features


def pooled(features: jax.Array) -> jax.Array:
  """The mean over patches or frames, [N, C], which probes read."""
  vectors = positions(features)
  return vectors.mean(tuple(range(1, vectors.ndim - 1)))


def passed_on(features: jax.Array, pool: int) -> jax.Array:
  """What the next module gets: features, averaged over `pool` neighbours.

  Args:
    features: a module's; positions beyond a multiple of `pool` are dropped.
    pool: neighbours along each axis of a map, or frames.

  Raises:
    ValueError: there are fewer than `pool` neighbours.
  """
  if pool == 1 or features.ndim == 4:
    return features
  axes = (3, 4) if features.ndim == 6 else (1,)
  for axis in axes:
    size = features.shape[axis] // pool
    if not size:
      raise ValueError(
        f'objective.pool is {pool}, but a module has features of shape '
        f'{features.shape}: axis {axis} is shorter.'
      )
    features = jax.lax.slice_in_dim(features, 0, size * pool, axis=axis)
    shape = features.shape
    features = features.reshape(*shape[:axis], size, pool, *shape[axis + 1 :])
    features = features.mean(axis + 1)
  return features


def apply_module(
  module: nn.Module,
  params: PyTree,
  state: PyTree,
  features: jax.Array,
  *,
  train: bool,
  rng: jax.Array | None = None,
  by_rows: bool = False,
) -> tuple[jax.Array, PyTree]:
  """One module, whatever its inputs are.

  Args:
    module: of `all_modules`.
    params: of its network.
    state: its other collections, such as running statistics.
    features: what it gets, of any form that `inputs` or a module gives.
    train: passed to modules that take it; they then may change their state.
    rng: of dropout in training.
    by_rows: take the rows of a grid of patches one after another.

  Returns:
    Its features, [N, rows, columns, h, w, C], [N, rows, columns, C] or
    [N, L, C], and its state.

  Raises:
    ValueError: rows apart, but the module has a state.
  """
  if by_rows and features.ndim == 6 and not is_context(module):
    if state:
      raise ValueError(
        f'objective.remat needs modules without a state, but '
        f'{type(module).__name__} has {sorted(state)}: its statistics would be '
        'those of single rows of patches.'
      )

    @jax.checkpoint
    def of_row(number_and_row: tuple[jax.Array, jax.Array]) -> jax.Array:
      number, row = number_and_row
      row_rng = None if rng is None else random.branch(rng, number)
      return apply_module(module, params, {}, row, train=train, rng=row_rng)[0]

    rows = jnp.moveaxis(features, 1, 0)[:, :, None]
    outputs = jax.lax.map(of_row, (jnp.arange(len(rows)), rows))[:, :, 0]
    return jnp.moveaxis(outputs, 0, 1), state
  x, lead = _entering(module, features)
  y, changed = module.apply(
    {'params': params, **state},
    x,
    **_mode(module, train),
    mutable=list(state) if train else [],
    rngs={} if rng is None else {'dropout': rng},
  )
  return y.reshape(*lead, *y.shape[1:]), state | changed


def _entering(
  module: nn.Module, features: jax.Array
) -> tuple[jax.Array, tuple[int, ...]]:
  """The module's own form of its input, and the axes that it stands for."""
  if is_context(module):
    x = positions(features)
    return x, x.shape[:1]
  if features.ndim == 3:
    return features, features.shape[:1]
  return features.reshape(-1, *features.shape[3:]), features.shape[:3]


def _mode(module: nn.Module, train: bool) -> dict[str, bool]:
  takes = 'train' in inspect.signature(type(module).__call__).parameters
  return {'train': train} if takes else {}


def module_loss(
  config: Config,
  module: nn.Module,
  params: PyTree,
  entered: jax.Array,
  features: jax.Array,
  labels: jax.Array | None,
  rng: jax.Array,
  axis_name: str | None = None,
) -> tuple[jax.Array, Metrics]:
  """Computes the loss at the end of a segment.

  Args:
    config: which loss.
    module: the segment's last.
    params: that module's: 'score' or 'head'.
    entered: what the module got.
    features: its outputs.
    labels: int32 [N], -1 where unknown; only for the supervised loss.
    rng: of the negatives.
    axis_name: the pmapped axis.

  Returns:
    The loss in nats, and its metrics without the module's name: 'infonce',
    'ceiling' (of `ceiling - loss`, a bound on information) and 'accuracy'
    averaged over offsets; or 'cross_entropy' and 'accuracy'.

  Raises:
    ValueError: there are too few rows or frames for the offsets, or no labels.
  """
  if config.loss == 'supervised':
    if labels is None:
      raise ValueError(
        "objective.loss is 'supervised', but the batch has no 'label'."
      )
    loss, accuracy = sharded_batch.classify(
      params['head'], pooled(features), labels, axis_name
    )
    return loss, {'cross_entropy': loss, 'accuracy': accuracy}
  rows: tuple[jax.Array, ...] = (positions(features),)
  if is_context(module):
    rows = (rows[0], positions(entered))
  contrast = functools.partial(_contrast, config)
  if config.negatives_of is None:
    rows = sharded_batch.gather(rows, axis_name)
    metrics = contrast(params['score'], rows, rng)
  else:
    metrics = sharded_batch.mean_of_groups(
      contrast,
      params['score'],
      rows,
      rng,
      size=config.negatives_of,
      axis_name=axis_name,
    )
  return metrics['infonce'], metrics


def _contrast(
  config: Config,
  weights: jax.Array,
  rows: tuple[jax.Array, ...],
  rng: jax.Array,
) -> Metrics:
  """InfoNCE between contexts and, where they are others, targets."""
  c, z = rows[0], rows[-1]
  contrast = _contrast_grid if z.ndim == 4 else _contrast_sequence
  bounds = contrast(config, z, c, weights, rng)
  return {
    'infonce': bounds.loss.mean(),
    'ceiling': bounds.ceiling.mean(),
    'accuracy': bounds.accuracy.mean(),
  }


def _contrast_grid(
  config: Config, z: jax.Array, c: jax.Array, weights: jax.Array, rng: jax.Array
) -> Any:
  """InfoNCE of targets z and contexts c, [N, rows, columns, C]."""
  indices = None
  if config.negatives is not None:
    indices = cpc.grid_negatives(
      rng, z.shape, config.offsets, config.negatives, skip=config.skip
    )
  return cpc.grid_infonce(
    z, c, weights, indices, skip=config.skip, epsilon=config.epsilon
  )


def _contrast_sequence(
  config: Config, z: jax.Array, c: jax.Array, weights: jax.Array, rng: jax.Array
) -> Any:
  """InfoNCE of targets z and contexts c, [N, L, C]."""
  start_rng, rng = jax.random.split(rng)
  length = z.shape[1]
  window: int | None = None
  start: int | jax.Array = 0
  if config.window is not None and config.window < length:
    window = config.window
    start = cpc.window_start(start_rng, length, window)
  drawn: jax.Array | tuple[jax.Array, ...] | None = None
  if config.negatives is not None:
    drawn = cpc.sequence_negatives(
      rng,
      z.shape,
      config.offsets,
      config.negatives,
      method=config.method,
      start=start,
      window=window,
    )
  return cpc.sequence_infonce(z, c, weights, drawn, start=start, window=window)


class _Chain(NamedTuple):
  """The modules of a config, and where the gradient stops.

  Attributes:
    config: the objective's.
    modules: those in use.
    stops: the modules behind which the gradient stops.
    ends: the modules that have a loss.
    axis_name: the pmapped axis.
  """

  config: Config
  modules: tuple[nn.Module, ...]
  stops: frozenset[int]
  ends: frozenset[int]
  axis_name: str | None

  @classmethod
  def of(cls, config: Config, axis_name: str | None) -> '_Chain':
    """The chain of a config."""
    modules = all_modules(config)
    if axis_name:
      # Of batch statistics, which are then those of all devices.
      modules = tuple(
        module.clone(axis_name=axis_name)
        if hasattr(module, 'axis_name')
        else module
        for module in modules
      )
    depth = config.depth or len(modules)
    # Stops do not depend on the depth: module_1 without a stop behind it has
    # its loss only where it is the last.
    isolated = (
      range(len(modules))
      if config.stop_gradient_after is None
      else config.stop_gradient_after
    )
    ends = frozenset({*isolated, depth - 1})
    return cls(config, modules[:depth], frozenset(isolated), ends, axis_name)

  def segments(self) -> list[tuple[int, int]]:
    """The first and last module of each segment in training."""
    first = self.config.frozen
    lasts = [i for i in range(first, len(self.modules)) if i in self.ends]
    return list(zip([first, *(i + 1 for i in lasts)], lasts, strict=False))

  def passed_on(self, number: int, features: jax.Array) -> jax.Array:
    """What the module behind module `number` gets; the last one pools not."""
    if number + 1 == len(self.modules):
      return features
    return passed_on(features, self.config.pool)

  def run(
    self,
    number: int,
    params: PyTree,
    model_state: PyTree,
    features: jax.Array,
  ) -> jax.Array:
    """A module out of training, frozen or not."""
    name = f'module_{number}'
    group = params[name] if name in params else model_state['frozen'][name]
    features, _ = apply_module(
      self.modules[number],
      group['network'],
      model_state.get(name, {}),
      features,
      train=False,
      by_rows=self.config.remat,
    )
    return features


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes Greedy InfoMax as an objective.

  It encodes to 'module_M', the mean over patches or frames, [N, C], and
  'module_M_map', [N, rows, columns, C] or [N, L, C].

  A batch may hold 'features', what the last frozen module passed on, in place
  of 'image' or 'audio': then the frozen modules are not run.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over; without
      `negatives_of`, negatives then come from the global batch.

  Returns:
    The objective, over the groups 'module_0', 'module_1', ... and 'probe'.
    Frozen modules are in the model state, under 'frozen': they have neither
    gradients nor an optimizer's state.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  chain = _Chain.of(config, axis_name)
  init = functools.partial(_init, chain)
  encode = functools.partial(_encode, chain)

  def loss(
    params: PyTree, model_state: PyTree, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
    features = _enter(chain, model_state, batch)
    total, (metrics, new_state, _) = _train(
      chain,
      range(config.frozen, len(chain.modules)),
      params,
      model_state,
      features,
      batch.get('label'),
      rng,
    )
    return total, (metrics, new_state)

  return Objective(
    init,
    loss,
    encode,
    tuple(_stage(chain, *segment) for segment in chain.segments()),
    functools.partial(_negatives, chain),
    negatives_of=config.negatives_of,
    features=tuple(f'module_{i}' for i in range(len(chain.modules))),
    classes=config.num_classes,
    supervised='a supervised objective' if config.loss == 'supervised' else '',
    # In a run of a single module the config may have optimizers of the others.
    optional_groups=(
      'probe',
      *(f'module_{i}' for i in range(len(all_modules(config)))),
    ),
    module_configs=functools.partial(_module_configs, config),
    module_outputs=functools.partial(_module_outputs, chain),
  )


def _init(chain: _Chain, rng: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
  config = chain.config
  features = jax.eval_shape(lambda b: inputs(config, b)[:2], dict(batch))
  params: dict[str, Any] = {}
  model_state: dict[str, Any] = {}
  probe = {}
  for i, module in enumerate(chain.modules):
    # A module's first parameters do not depend on how many others there are.
    network_rng, loss_rng = jax.random.split(jax.random.fold_in(rng, i))
    network, state = _init_module(i, module, network_rng, features)
    entered = features

    def run(x, module=module, network=network, state=state):
      return apply_module(module, network, state, x, train=False)[0]

    features = jax.eval_shape(run, features)
    group = {'network': network}
    if i in chain.ends and i >= config.frozen:
      group |= _init_loss(config, module, loss_rng, entered, features)
    if state:
      model_state[f'module_{i}'] = state
    if i < config.frozen:
      model_state.setdefault('frozen', {})[f'module_{i}'] = group
    else:
      params[f'module_{i}'] = group
      probe[f'module_{i}'] = {
        'kernel': jnp.zeros((features.shape[-1], config.num_classes)),
        'bias': jnp.zeros(config.num_classes),
      }
    passing = functools.partial(chain.passed_on, i)
    features = jax.eval_shape(passing, features)
  if config.num_classes:
    params['probe'] = probe
  return params, model_state


def _init_module(
  number: int, module: nn.Module, rng: jax.Array, features: jax.Array
) -> tuple[PyTree, PyTree]:
  """A module's parameters and state, from the shape of what it gets."""
  x = jnp.zeros(features.shape, features.dtype)
  entering = _entering(module, x)[0]
  try:
    variables = dict(module.init(rng, entering, **_mode(module, False)))
  except ValueError as error:
    raise ValueError(
      f'module_{number}, {type(module).__name__}, cannot take inputs of shape '
      f'{entering.shape[1:]} each: {error}'
    ) from error
  return variables.pop('params', {}), variables


def _enter(chain: _Chain, model_state: PyTree, batch: Batch) -> jax.Array:
  """What the first module in training gets."""
  if 'features' in batch:
    return batch['features'].astype(jnp.float32)
  features = inputs(chain.config, batch).astype(jnp.float32)
  for i in range(chain.config.frozen):
    features = chain.passed_on(i, chain.run(i, {}, model_state, features))
  return features


def _train(
  chain: _Chain,
  numbers: range,
  params: PyTree,
  model_state: PyTree,
  features: jax.Array,
  labels: jax.Array | None,
  rng: jax.Array,
) -> tuple[jax.Array, tuple[Metrics, PyTree, jax.Array]]:
  """What modules in training add to the loss, and what they pass on."""
  config, axis_name = chain.config, chain.axis_name
  state = dict(model_state)
  metrics: Metrics = {}
  total = jnp.zeros(())
  for i in numbers:
    module, name = chain.modules[i], f'module_{i}'
    if i == config.frozen or i - 1 in chain.stops:
      features = jax.lax.stop_gradient(features)
    entered = features
    dropout_rng = _dropout_key(rng, i, axis_name)
    features, changed = apply_module(
      module,
      params[name]['network'],
      model_state.get(name, {}),
      features,
      train=True,
      rng=dropout_rng,
      by_rows=config.remat,
    )
    if changed:
      state[name] = changed
    if i in chain.ends:
      term, own = module_loss(
        config,
        module,
        params[name],
        entered,
        features,
        labels,
        jax.random.fold_in(rng, i),
        axis_name,
      )
      total += term
      metrics |= {f'{name}/{key}': value for key, value in own.items()}
    if labels is not None and name in params.get('probe', {}):
      term, accuracy = sharded_batch.classify(
        params['probe'][name],
        jax.lax.stop_gradient(pooled(features)),
        labels,
        axis_name,
      )
      total += term
      metrics[f'probe/{name}_loss'] = term
      metrics[f'probe/{name}_accuracy'] = accuracy
    features = chain.passed_on(i, features)
  return total, (metrics, state, features)


def _dropout_key(
  rng: jax.Array, number: int, axis_name: str | None
) -> jax.Array:
  """What a module's dropout draws from, another on each device."""
  key = random.branch(rng, random.OfStep.MODULE_DROPOUT + number)
  if axis_name is None:
    return key
  return jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def _stage(chain: _Chain, first: int, last: int) -> Stage:
  """The segment of modules first..last, in training."""

  def loss(
    params: PyTree,
    model_state: PyTree,
    entered: Any,
    labels: jax.Array | None,
    rng: jax.Array,
  ) -> tuple[jax.Array, tuple[Metrics, PyTree, jax.Array]]:
    if first == chain.config.frozen:
      entered = _enter(chain, model_state, entered)
    numbers = range(first, last + 1)
    return _train(chain, numbers, params, model_state, entered, labels, rng)

  # Frozen modules go with the first.
  begin = 0 if first == chain.config.frozen else first
  return Stage(tuple(f'module_{i}' for i in range(begin, last + 1)), loss)


def _encode(
  chain: _Chain, params: PyTree, model_state: PyTree, batch: Batch
) -> dict[str, jax.Array]:
  features = inputs(chain.config, batch)
  vectors, maps = {}, {}
  for i in range(len(chain.modules)):
    features = chain.run(i, params, model_state, features)
    vectors[f'module_{i}'] = pooled(features)
    maps[f'module_{i}_map'] = positions(features)
    features = chain.passed_on(i, features)
  return maps | vectors


def _negatives(
  chain: _Chain, batch: Batch
) -> dict[str, tuple[int, float | None]]:
  """`Objective.negatives`, of shapes alone."""
  config = chain.config
  if config.loss != 'infonce':
    return {}
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = jax.eval_shape(functools.partial(_init, chain), key, batch)
  encode = functools.partial(_encode, chain)
  features = jax.eval_shape(encode, *variables, batch)
  counts: dict[str, tuple[int, float | None]] = {}
  for _, i in chain.segments():
    shape = features[f'module_{i}_map'].shape
    shape = (config.negatives_of or shape[0], *shape[1:])
    count = config.negatives or _others(config, shape)
    counts[f'module_{i}/infonce'] = count, math.log(count + 1)
  return counts


def _others(config: Config, shape: tuple[int, ...]) -> int:
  """All targets of a prediction one step ahead, less its own."""
  if len(shape) == 4:
    return shape[0] * (shape[1] - config.skip - 1) * shape[2] - 1
  return shape[0] * (min(config.window or shape[1], shape[1]) - 1) - 1


def _init_loss(
  config: Config,
  module: nn.Module,
  rng: jax.Array,
  entered: jax.Array,
  features: jax.Array,
) -> PyTree:
  """The parameters of a segment's loss, from shapes."""
  size = features.shape[-1]
  bound = 1 / math.sqrt(size)
  if config.loss == 'supervised':
    kernel_rng, bias_rng = jax.random.split(rng)
    shape = (size, config.num_classes)
    return {
      'head': {
        'kernel': jax.random.uniform(kernel_rng, shape, float, -bound, bound),
        'bias': jax.random.uniform(bias_rng, shape[1:], float, -bound, bound),
      }
    }
  target = entered.shape[-1] if is_context(module) else size
  sizes = (config.offsets, target, size)
  return {'score': jax.random.uniform(rng, sizes, float, -bound, bound)}


def _module_configs(config: Config, depth: int | None) -> tuple[Config, ...]:
  """Of each of `depth` modules, trained on the frozen ones before it."""
  if config.stop_gradient_after is not None:
    raise ValueError(
      'Modules that are trained one after another are isolated from each '
      'other: set objective.stop_gradient_after to None, got '
      f'{config.stop_gradient_after}.'
    )
  count = len(all_modules(config))
  if depth is None:
    depth = config.depth or count
  if not 1 <= depth <= count:
    raise ValueError(f'--depth must be in 1..{count}, got {depth}.')
  return tuple(
    dataclasses.replace(config, depth=i + 1, frozen=i) for i in range(depth)
  )


def _module_outputs(
  chain: _Chain, variables: PyTree, batch: Batch
) -> jax.Array:
  """What a module behind the last would get, to store for its training."""
  params, model_state = variables
  first = chain.config.frozen if 'features' in batch else 0
  features = batch['features'] if first else inputs(chain.config, batch)
  features = features.astype(jnp.float32)
  for i in range(first, len(chain.modules)):
    features = chain.run(i, params, model_state, features)
    features = passed_on(features, chain.config.pool)
  return features
