r"""Deep InfoMax: global and local mutual information, and prior matching.

The paper's objective, with its alpha, beta and gamma,

.. math:: \alpha I(X; Y) + \beta / M^2 \sum_i I(C_i; Y) - \gamma D(V \| Y),

is maximised over the encoder and the critics, while an adversary estimates the
divergence D; `Prior.divergence` says which, and two need no adversary. The
paper's structure tasks are options: `Config.coordinates`, and a `Mask` of the
kind 'occlude'. With labels, a classifier learns together with the encoder:
semi-supervised, fine-tuned or, with no other weight, supervised.

The loss is a sum of terms, a file each in `terms`. The adversary sees
`stop_gradient` of the codes, the encoder sees `stop_gradient` of the
adversary's parameters, and the online probe sees `stop_gradient` of the
features; so each parameter group gets its own gradient from one backward pass.

Su's variant is four of the fields: a `Prior` of the distribution 'kl',
`map_feature` = 'y', `negatives_of` = 2 and the bound 'jsd'; its critics
concatenate (https://github.com/bojone/infomax).

The metrics, in nats unless named otherwise: 'mi/local' and 'mi/global' (the
bounds) with their '_ceiling' where they have one, 'prior/kl' (summed over
dimensions, averaged over images), 'probe/NAME_loss' and 'probe/NAME_accuracy'
(a fraction). In the divergence's own unit: 'prior/adversary', its
'prior/gradient_penalty' or, if it is of scores alone, 'prior/penalty', and
'prior/encoder' (of 'stein' a surrogate, whose value means nothing). Without a
unit: 'encoder/spectral_penalty'. Of options, in nats: 'coordinates/row',
'/column', '/relative_row' and '/relative_column', cross-entropies of which
`losses.structure` gives the ceilings; 'decoder/cross_entropy' and, a
fraction, 'decoder/accuracy', of labelled images alone, 0 without any:
averages over steps are of all, those divided by that of 'decoder/labelled',
1 with a label and else 0, of the steps that had one.

Hjelm et al., Learning deep representations by mutual information estimation and
maximization, ICLR 2019. https://arxiv.org/abs/1808.06670
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dim_jax import random
from dim_jax.checks import check_choice, check_fields
from dim_jax.losses import bounds, large_batches, spectral
from dim_jax.networks import critics, layers, masking
from dim_jax.objective import Batch, Metrics, Objective, PyTree
from dim_jax.objectives import (
  encoder_and_terms,
  image_encoder,
  sharded_batch,
)
from dim_jax.objectives.terms import (
  classifiers,
  coordinates,
  hidden_patches,
  mutual_information,
  prior_matching,
  term,
)
from dim_jax.objectives.terms.classifiers import Supervised
from dim_jax.objectives.terms.coordinates import Coordinates
from dim_jax.objectives.terms.hidden_patches import Mask
from dim_jax.objectives.terms.mutual_information import BOUNDS
from dim_jax.objectives.terms.prior_matching import Prior
from dim_jax.objectives.terms.term import Inputs, Term

_PROBED_FEATURES = ('conv', 'fc', 'globals', 'y')
# Of this many images all pairs' hidden layers are held at once.
_ALL_CONCATENATED = 64
_GROUPS = ('encoder', 'critic', 'adversary', 'decoder', 'probe')


@dataclasses.dataclass(kw_only=True)
class Memory:
  """The same loss and gradients in less memory, for more time."""

  score_chunk: int | None = None
  """Hold the local scores of this many of the batch's globals at a time, and
  make them twice. For the critics 'projection' and 'factored'; the scores of
  `global_weight`, one a pair of images, stay as they are."""
  micro_batch: int | None = None
  """Encode this many images of a device at a time, twice: all negatives are
  included, while a step holds the activations of this many alone. For encoders
  without batch statistics; the critics keep theirs, of the whole batch."""


@dataclasses.dataclass(kw_only=True)
class Config:
  """Deep InfoMax; the defaults are DIM(L) with InfoNCE (Hjelm et al. 2019)."""

  encoder: str | Any = 'basic32'
  """A name of `networks.encoders.ENCODERS`, or a Flax module that maps images
  [N, H, W, C] and `train` to a dictionary of features, or to one array, 'y'."""
  code: int = 64
  """Size of the code Y of a named encoder."""
  norm: str = 'batch'
  """The normalisation of a named encoder: 'batch', or without statistics of the
  batch, as `memory.micro_batch` needs it, 'layer' or 'group'."""
  local_weight: float = 1.0
  """beta: of the MI between the code and each location of `local_feature`."""
  global_weight: float = 0.0
  """alpha: of the MI between the code and the whole of `map_feature`."""
  bound: str = 'infonce'
  """A name of `BOUNDS`. Of the f-divergences among them, chi_squared and
  reverse_kl train an encoder but are no bounds on MI; reports then name the
  estimator of 'mi/local'."""
  negatives_of: int | None = None
  """Contrast an image with this many images, itself and its neighbours in the
  batch; None for all of the batch. With more devices in place of larger groups,
  a step takes each of them no longer. Both weights' terms do so, and their
  ceilings are those of fewer negatives."""
  critic: str = 'factored'
  """The local critic: 'projection' is the paper's, 'factored' the same function
  but for where it normalises, and several times faster; or 'concat'."""
  critic_units: int = 2048
  """Width of the local critic."""
  global_critic_units: int = 512
  """Width of the global critic, the paper's concatenate-then-MLP."""
  concat_depth: int = 2
  """Hidden layers of the critic 'concat', and of the global one."""
  local_samples: int | None = None
  """Score this many random locations an image instead of all, drawn with
  replacement."""
  global_samples: int | None = None
  """Likewise of the globals, where `global_feature` has several an image."""
  prior: Prior | None = dataclasses.field(default_factory=Prior)
  """What the code's distribution is matched to; None for nothing."""
  coordinates: Coordinates | None = None
  """Predict where local features are, from each with the code."""
  mask: Mask | None = None
  """Hide parts of the images that the code is of."""
  supervised: Supervised | None = None
  """Train a classifier with the encoder."""
  memory: Memory | None = None
  """Save memory."""
  spectral_penalty: float = 0.0
  """lambda: of half the sum of the encoder's squared spectral norms."""
  local_feature: str = 'local'
  """The feature of which each location is scored against the code."""
  map_feature: str = 'conv'
  """The feature that the global critic scores as a whole. If it is the code
  itself, as in Su's variant, a pair is of two codes, and that of one image the
  same sample twice."""
  global_feature: str = 'y'
  """The feature that is the code."""
  dtype: str = 'float32'
  """Compute dtype of the networks, 'float32' or 'bfloat16'; parameters and
  scores stay float32."""
  num_classes: int = 10
  """Classes of the classifier and of the online probe, a linear layer on every
  feature of `probe_features` that sends no gradient back; 0 for neither. Labels
  must be below it; those of -1 are left out."""
  probe_features: tuple[str, ...] = classifiers.PROBED
  """The features that online probes read."""


def check(config: Config) -> None:
  """Raises ValueError where a field cannot be used; names what is accepted."""
  check_choice('objective.bound', config.bound, BOUNDS)
  check_choice('objective.critic', config.critic, critics.CRITICS)
  image_encoder.check(config)
  check_fields(
    config,
    {
      'local_weight': '[0, inf)',
      'global_weight': '[0, inf)',
      'negatives_of': 'int [2, inf) or None',
      'critic_units': 'int [1, inf)',
      'global_critic_units': 'int [1, inf)',
      'concat_depth': 'int [1, inf)',
      'local_samples': 'int [1, inf) or None',
      'global_samples': 'int [1, inf) or None',
      'spectral_penalty': '[0, inf)',
    },
    'objective.',
  )
  if config.prior:
    prior_matching.check(config.prior)
  if _is_stochastic(config) and config.global_feature != 'y':
    raise ValueError(
      "objective.prior.distribution='kl' is of the code: objective."
      f"global_feature must be 'y' with it, got {config.global_feature!r}."
    )
  if config.coordinates:
    coordinates.check(config.coordinates)
  if config.supervised:
    classifiers.check(config.supervised, config.num_classes)
  if config.mask:
    hidden_patches.check(config.mask)
  if config.memory:
    _check_memory(config, config.memory)
  weighed = (config.supervised, config.coordinates)
  if not (
    config.local_weight or config.global_weight or any(map(_used, weighed))
  ):
    raise ValueError(
      'objective.local_weight and objective.global_weight are both 0: nothing '
      'would train the encoder. Set one above 0, or objective.supervised or '
      'objective.coordinates with a weight above 0.'
    )
  targets_hidden = config.mask is not None and config.mask.targets_hidden
  if targets_hidden and (
    not config.local_weight or config.local_samples is not None
  ):
    raise ValueError(
      "objective.mask.targets='hidden' selects among all locations: it needs "
      'local_weight above 0 and local_samples=None.'
    )


def _check_memory(config: Config, memory: Memory) -> None:
  check_fields(
    memory,
    {
      'score_chunk': 'int [1, inf) or None',
      'micro_batch': 'int [1, inf) or None',
    },
    'objective.memory.',
  )
  embedding = [k for k, v in critics.CRITICS.items() if hasattr(v, 'embed')]
  if memory.score_chunk is not None and (
    config.critic not in embedding or not config.local_weight
  ):
    raise ValueError(
      f'objective.memory.score_chunk={memory.score_chunk} is of local scores '
      'between embeddings: it needs local_weight above 0 and a critic of '
      f'{embedding}, got local_weight={config.local_weight} and '
      f'critic={config.critic!r}.'
    )


def check_optimizers(
  config: Config, optimizers: Mapping[str, Any], default: Any
) -> None:
  """Raises ValueError where nothing keeps a Wasserstein critic from growing.

  Args:
    config: the run's objective.
    optimizers: those of single parameter groups.
    default: of all others.
  """
  prior_matching.check_optimizers(_used(config.prior), optimizers, default)


def _used(group: Any) -> Any:
  """Returns the options of a term, or None where it has no weight."""
  return group if group is not None and group.weight else None


def _make_encoder(config: Config, axis_name: str | None) -> nn.Module:
  stochastic = _is_stochastic(config)
  return image_encoder.of_config(config, axis_name, stochastic=stochastic)


def _is_stochastic(config: Config) -> bool:
  return config.prior is not None and config.prior.distribution == 'kl'


def _make_terms(config: Config, axis_name: str | None) -> list[Term]:
  """The summands of the loss, in the order that they are added up."""
  dtype = jnp.dtype(config.dtype)
  prior = _used(config.prior)
  terms = []
  if config.prior and config.prior.distribution == 'kl':
    terms.append(prior_matching.make_kl(config.prior, axis_name))
  terms.append(mutual_information.make(config, axis_name))
  if options := _used(config.coordinates):
    terms.append(
      coordinates.make(
        options, config.local_feature, config.global_feature, dtype, axis_name
      )
    )
  if options := _used(config.supervised):
    terms.append(classifiers.make(options, config.num_classes, axis_name))
  if prior and prior.distribution != 'kl':
    terms.append(
      prior_matching.make(prior, config.global_feature, dtype, axis_name)
    )
  if config.spectral_penalty:
    terms.append(_make_spectral(config.spectral_penalty))
  return terms + classifiers.make_probes(config, axis_name)


def _make_spectral(weight: float) -> Term:
  """The penalty on the spectral norms of the encoder's weights."""

  def weights(inputs: Inputs) -> PyTree:
    return {k: v for k, v in inputs.encoder.items() if k != 'mask_token'}

  def init(rng: jax.Array, inputs: Inputs) -> tuple[PyTree, PyTree]:
    rng = random.branch(rng, random.OfParameters.SPECTRAL_VECTORS)
    return {}, {'spectral': spectral.spectral_vectors(rng, weights(inputs))}

  def loss(
    params: PyTree, model_state: PyTree, inputs: Inputs, rng: jax.Array
  ) -> tuple[jax.Array, Metrics, PyTree]:
    penalty, vectors = spectral.spectral_penalty(
      weights(inputs), model_state['spectral']
    )
    metrics = {'encoder/spectral_penalty': penalty}
    return weight * penalty, metrics, {'spectral': vectors}

  return Term(init, loss)


def _init_encoder(
  config: Config, rng: jax.Array, images: jax.Array
) -> tuple[dict[str, jax.Array], PyTree, PyTree]:
  """The encoder's features, parameters and state."""
  encoder = _make_encoder(config, None)
  rng = jax.random.split(rng, 3)[0]
  outputs, variables = encoder.init_with_output(rng, images, train=False)
  features = image_encoder.features_of(outputs)
  params, state = term.split(variables)
  if config.memory and config.memory.micro_batch is not None and state:
    raise ValueError(
      f'objective.memory.micro_batch={config.memory.micro_batch} needs an '
      f'encoder without a state, but this one has {sorted(state)}: its '
      "statistics would be a micro-batch's, which is another loss. Of a named "
      "encoder set objective.norm='group'; choose one without batch "
      'normalisation, or micro_batch=None.'
    )
  if config.mask is not None:
    local = term.select(features, config.local_feature, 'local_feature')
    params |= hidden_patches.init(config.mask, rng, images, local)
  return features, params, state


def _embed(
  config: Config,
  encoder: nn.Module,
  axis_name: str | None,
  params: PyTree,
  state: PyTree,
  batch: Batch,
  rng: jax.Array,
) -> tuple[Inputs, PyTree]:
  """What the terms see of a batch, and the encoder's state after it."""
  images = layers.normalise_images(sharded_batch.images(batch))
  dropout = encoder_and_terms.dropout_key(rng, axis_name)

  def embed(
    params: PyTree, images: jax.Array, rng: jax.Array
  ) -> tuple[dict[str, jax.Array], PyTree]:
    outputs, changed = encoder.apply(
      {'params': params, **state},
      images,
      train=True,
      mutable=list(state),
      rngs={'dropout': rng},
    )
    return image_encoder.features_of(outputs), changed

  def encode(images: jax.Array) -> tuple[dict[str, jax.Array], PyTree]:
    size = config.memory.micro_batch if config.memory else None
    if size is None:
      return embed(params, images, dropout)
    # Under jit a batch is that of all devices, and each takes its share.
    in_parts = large_batches.micro_batched(
      lambda *arguments: embed(*arguments)[0],
      size=size * sharded_batch.devices_of_mesh(),
    )
    return in_parts(params, images, dropout), {}

  if config.mask is None:
    features, state_after = encode(images)
    targets = hidden = None
  else:
    targets, state_of_whole = encode(images)
    visible = hidden_patches.draw(config.mask, rng, images, axis_name)
    hidden = None
    if config.mask.targets_hidden:
      local = targets[config.local_feature]
      hidden = hidden_patches.hidden_locations(config.mask, visible, local)
    shown = hidden_patches.in_training(config.mask, params, images, visible)
    features, state_after = encode(shown)
    if config.mask.kind == 'occlude':
      # Running statistics serve evaluation, which sees whole images.
      state_after = state_of_whole
  mean = features.get(config.global_feature)
  if _is_stochastic(config):
    features = prior_matching.sample_code(
      features, config.global_feature, rng, axis_name
    )
  inputs = Inputs(
    features,
    features if targets is None else targets,
    mean,
    images,
    batch.get('label'),
    hidden,
    params,
  )
  return inputs, state_after


def make(config: Config, *, axis_name: str | None = None) -> Objective:
  """Makes Deep InfoMax as an objective.

  Args:
    config: what to optimise.
    axis_name: the pmapped axis that the batch is spread over. Every device
      then scores the globals of all devices against its own images' locals, so
      the loss is that of the global batch.

  Returns:
    The objective, over the groups 'encoder', 'critic' (if it scores or
    locates), 'adversary' (if the prior has one), 'decoder' (if supervised) and
    'probe'. It encodes to the encoder's features and, if supervised, 'logits'.

  Raises:
    ValueError: a field cannot be used.
  """
  check(config)
  encoder = _make_encoder(config, axis_name)
  terms = _make_terms(config, axis_name)
  init = functools.partial(
    encoder_and_terms.init, functools.partial(_init_encoder, config), terms
  )
  embed = functools.partial(_embed, config, encoder, axis_name)
  supervised = _used(config.supervised)

  def encode(
    params: PyTree, model_state: PyTree, batch: Batch
  ) -> dict[str, jax.Array]:
    variables = {'params': params['encoder'], **model_state['encoder']}
    images = layers.normalise_images(sharded_batch.images(batch))
    images = hidden_patches.at_evaluation(
      config.mask, params['encoder'], images
    )
    features = image_encoder.features_of(
      encoder.apply(variables, images, train=False)
    )
    if supervised:
      features['logits'] = classifiers.read(
        supervised, config.num_classes, params, features
      )
    return features

  others = (name for name in _PROBED_FEATURES if name != config.global_feature)
  return Objective(
    init,
    functools.partial(encoder_and_terms.loss, embed, terms),
    encode,
    negatives=functools.partial(_negatives, config, init, encode),
    negatives_of=config.negatives_of,
    features=(*others, config.global_feature),
    pictured=('fc',),
    classes=config.num_classes,
    supervised=f'objective.supervised.weight={supervised.weight}'
    if supervised
    else '',
    exact_batches=_exact_batches(config),
    optional_groups=_GROUPS,
    scores=functools.partial(_scores, config),
    logits=functools.partial(_logits, encode) if supervised else None,
  )


def _exact_batches(config: Config) -> str:
  field = 'objective.memory.micro_batch'
  if isinstance(config.encoder, str) and config.norm == 'batch':
    return f"{field} with objective.norm='group'"
  return field


def _scores(
  config: Config, variables: PyTree, batch: Batch
) -> dict[str, jax.Array]:
  """The critics' scores of those terms that have weight."""
  params, model_state = variables
  encoder = _make_encoder(config, None)

  def encode(images: jax.Array) -> dict[str, jax.Array]:
    encoder_variables = {'params': params['encoder'], **model_state['encoder']}
    return image_encoder.features_of(
      encoder.apply(encoder_variables, images, train=False)
    )

  images = layers.normalise_images(sharded_batch.images(batch))
  if config.critic == 'concat':
    images = images[:_ALL_CONCATENATED]
  shown = hidden_patches.at_evaluation(config.mask, params['encoder'], images)
  features = encode(shown)
  targets = features if config.mask is None else encode(images)
  pairs = mutual_information.pairs_of(config, features, targets)
  return mutual_information.make_critics(config, None).apply(
    {'params': params.get('critic', {}), **model_state['critic']},
    *pairs,
    train=False,
  )


def _logits(
  encode: Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]],
  variables: PyTree,
  batch: Batch,
  rng: jax.Array,
  samples: int,
) -> jax.Array:
  """The classifier's, [1, N, C]; it takes a stochastic code at its mean."""
  del rng, samples
  params, model_state = variables
  return encode(params, model_state, batch)['logits'][None]


def _negatives(
  config: Config, init: Any, encode: Any, batch: Batch
) -> dict[str, tuple[int, float | None]]:
  """`Objective.negatives`, of shapes alone."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = jax.eval_shape(init, key, batch)
  features = jax.eval_shape(encode, *variables, batch)
  images = sharded_batch.images(batch)
  pairs = jax.eval_shape(
    lambda x: mutual_information.pairs_of(config, x, x), features
  )
  positions = config.local_samples or pairs.locations.shape[1]
  if config.mask is not None and config.mask.targets_hidden:
    grid = masking.grid_of(images, config.mask.patch)
    visible = jax.ShapeDtypeStruct((1, *grid), bool)
    locate = functools.partial(hidden_patches.hidden_locations, config.mask)
    local = features[config.local_feature]
    positions = jax.eval_shape(locate, visible, local).shape[1]
  size = config.negatives_of or images.shape[0]
  shapes = {}
  if config.local_weight:
    shapes['mi/local'] = 0, size, positions
  if config.global_weight:
    shapes['mi/global'] = 0, size, 1
  counts = {
    name: mutual_information.count_negatives(shape)
    for name, shape in shapes.items()
  }
  return {
    name: (count, bounds.ceiling(config.bound, count))
    for name, count in counts.items()
  }
