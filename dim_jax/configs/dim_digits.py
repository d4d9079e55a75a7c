"""Deep InfoMax on scikit-learn's digits: the demo, and one of each kind.

  dim-jax train --config=dim_digits:infonce --workdir=runs/digits

Measured by `make demo` on two shared CPU cores, seed 0: 40 s; linear probe with
5 labels per class fc / y 92.6 / 91.0 % (experiments/results/dim_digits.json).

The baselines of the paper's tables (supervised, vae, ae, beta_vae, aae, bigan,
nat, global, dv) are trained beside it by `dim-jax table
dim_digits --seeds=0,1,2`: 13 min 42 s on two CPU cores, linear probe with 5
labels per class on y from 35.0 % (nat) to 91.6 % (jsd and dv), supervised 99.3
% (experiments/results/table_digits.json). Without augmentation nat learns its
targets by heart; with `--config.data.crop_padding=4` its y reads 85.7 % (seed
0).

In masked, half of the 16 patches are a learned token, and the code is scored
against what they hid; `experiments.studies.masks` trains its kinds of masks
side by side. Measured by it on a CPU, 300 steps, 3 seeds
(experiments/results/masks_digits.json): linear probe with 5 labels per class
fc / y 92.0 / 91.3 % with the consistent input and 93.2 / 93.0 % with the images
as they are (mask.evaluation='naive'); 92.1 / 91.3 % without a mask,
93.2 / 93.0 % with mask.kind='drop'.

In structure, the code is of an image of which a random rectangle is hidden, and
tells where each local feature of the whole image is.

folded and cpc see 7x7 crops of 8 of 32x32 pixels, each alone. Measured with
seed 0, in 45 and 94 CPU seconds: linear probe with 5 labels per class on the
crops' map 92.6 % for folded and 90.0 % for cpc (untrained 88.7 %), MLP probe
99.8 and 100.0 % (untrained 99.0 %); of folded fc / y 93.2 / 91.6 %; of cpc on
the mean over crops (module_0) 79.1 % and of its contexts (module_1) 86.4 %,
untrained 63.4 and 66.9 %.

su is Su's variant of Deep InfoMax, see `_dim_rows.su`. Measured, seed 0, its
500 steps on one of two shared CPU cores: linear probe with 5 labels per class
fc / y 77.4 / 72.8 %, below the untrained 86.5 / 82.8 %. What its terms are
worth, by `experiments.studies.su`: experiments/results/su_digits.json.

semi_supervised trains a classifier of few labels too; from labels alone it is
`--config.objective.local_weight=0 --config.objective.prior=None`, and with all
of them, by a linear layer on the code, supervised. finetune
starts from the run in `init_from`, runs/digits, and labels alone train the
classifier and the whole encoder. Measure both with `dim-jax classify`.
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.configs import Row, changed, dim_cifar10, get
from dim_jax.configs import _dim_rows as dim_rows
from dim_jax.objectives import dim


def infonce() -> ExperimentConfig:
  """A small encoder, Adam 1e-3, 500 steps of 64 images."""
  return ExperimentConfig(
    objective=dim.Config(encoder='small32', bound='infonce', critic_units=256),
    data=DataConfig(name='digits', image_size=32),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    groups={'probe': OptimizerConfig(learning_rate=1e-3)},
    batch_size=64,
    steps=500,
    log_every=20,
    checkpoint_every=100,
  )


def masked() -> ExperimentConfig:
  """Hidden patches of 8x8 of 32x32 pixels."""
  config = infonce()
  config.objective.mask = dim.Mask(
    kind='token',
    keep=0.5,
    patch=8,
    targets='hidden',
    # The mean pixel of the training images, for 'rescale'.
    fill=-0.39,
  )
  return config


def structure() -> ExperimentConfig:
  """Both structure tasks of the paper, 300 steps."""
  config = infonce()
  dim_cifar10.coordinates(config)
  dim_cifar10.occlusion(config)
  config.objective.coordinates.units = 64
  config.steps = 300
  return config


def semi_supervised() -> ExperimentConfig:
  """A tenth of the labels, 200 steps."""
  config = infonce()
  config.objective.supervised = dim.Supervised(weight=1.0)
  config.data = DataConfig(name='digits', labelled=0.1)
  config.steps = 200
  return config


def finetune() -> ExperimentConfig:
  """`semi_supervised` without Deep InfoMax, from its run."""
  config = semi_supervised()
  config.objective.local_weight = 0.0
  config.objective.prior = None
  config.init_from = 'runs/digits'
  # The other run's learned from all labels.
  config.objective.probe_features = ()
  return config


def folded() -> ExperimentConfig:
  """`infonce` on 7x7 crops of 8 of 32x32 pixels, each alone."""
  config = infonce()
  dim_cifar10.folded('foldsmall32')(config)
  config.objective.critic_units = 256
  return config


def cpc() -> ExperimentConfig:
  """CPC on the crops of `folded`."""
  config = infonce()
  dim_cifar10.predictive_coding('foldsmall32_cpc', 8)(config)
  return config


ROWS: Mapping[str, Row] = {
  **{
    name.removeprefix('local_'): row
    for name, row in dim_rows.table_rows(infonce).items()
  },
  'su': Row(
    "Su's variant: Gaussian codes, pairs of codes, one negative",
    changed(infonce, dim_rows.su),
  ),
  'masked': Row('DIM(L), codes of half of each image', masked),
  'structure': Row('DIM(L) with occlusion and coordinates', structure),
  'folded': Row('DIM(L) on strided crops', folded),
  'cpc': Row('CPC on strided crops', cpc),
  'semi_supervised': Row(
    'DIM(L) and a classifier of few labels together', semi_supervised
  ),
  'finetune': Row(
    'A classifier of few labels on a pretrained encoder', finetune
  ),
}

TABLE = tuple(name.removeprefix('local_') for name in dim_rows.TABLE)


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
