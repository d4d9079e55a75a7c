"""Deep InfoMax on STL-10: the rows of Hjelm et al. 2019.

  dim-jax train --config=dim_stl10:local_infonce --workdir=runs/dim_stl10

Trains on the 100,000 images without labels, mirrored crops of 64x64 at random;
the paper adds the 5,000 labelled ones, which here serve for probes alone, as
their central 64x64. The released code resizes to 64x64 instead. Objective and
optimizer are as in dim_cifar10.py, the network is the paper's AlexNet, meant
for an accelerator; supervised trains on the labelled images, as many of them.
Not trained here.

Against CPC, in folded and folded_globals, the encoder sees 7x7 overlapping
crops of 16 pixels, each alone; all else of them, and of cpc, is as in
dim_cifar10.py.

In semi_supervised (table 2, SS) a small network on the last convolution learns
the 5,000 labels together with the encoder, beside Deep InfoMax on these and the
100,000 images without; as in the 2018 code, the cross-entropy is added. A batch
of 64 has three labels on average. Measure it with `dim-jax classify`. The
JSD row is `--config.objective.bound=jsd`, an error of 23.04 % in the paper. To
fine-tune a run of local_infonce instead, or of vae, bigan and any other row,
set init_from to its folder, objective.local_weight to 0, objective.prior to
None and data.unlabelled to False; table 2 has an SS number of each.
"""

from collections.abc import Mapping

from dim_jax.config import DataConfig, ExperimentConfig
from dim_jax.configs import Row, changed, dim_cifar10, get
from dim_jax.configs import _dim_rows as dim_rows
from dim_jax.configs._dim_rows import MEMORY, published
from dim_jax.objectives import dim


def local_infonce() -> ExperimentConfig:
  """alpha, beta, gamma = 0, 1, 0.1; 200 epochs of 100,000 images."""
  config = dim_cifar10.local_infonce()
  config.objective.encoder = 'alex64'
  config.data = DataConfig(
    name='stl10', image_size=None, unlabelled=True, crop=64, flip=True
  )
  config.steps = 312_400
  config.checkpoint_every = 5000
  return config


def semi_supervised() -> ExperimentConfig:
  """`local_infonce` with all labels, of weight 1."""
  config = local_infonce()
  config.objective.supervised = dim.Supervised(weight=1.0)
  config.data = DataConfig(
    name='stl10',
    image_size=None,
    validation=0.0,
    unlabelled=True,
    labelled=1.0,
    crop=64,
    flip=True,
  )
  config.steps = 328_000  # 200 epochs of 105,000 images.
  return config


def _labelled(config: ExperimentConfig) -> None:
  config.data = DataConfig(name='stl10', image_size=None, crop=64, flip=True)


_METHODS = dim_rows.table_rows(
  local_infonce,
  'table 2',
  {
    'supervised': (68.7,),
    'vae': (58.27, 56.72, 46.47),
    'ae': (58.19, 55.57, 46.82),
    'beta_vae': (57.15, 55.14, 46.87),
    'aae': (59.54, 54.47, 43.89),
    'bigan': (71.53, 67.18, 58.48),
    'nat': (64.32, 61.43, 48.84),
    'global': (42.03, 30.82, 28.09),
    'local_dv': (69.15, 63.81, 61.92),
    'local_jsd': (72.86, 70.85, 65.93),
    'local_infonce': (72.57, 70.0, 67.08),
  },
)
ROWS: Mapping[str, Row] = {
  **_METHODS,
  # Images without labels, which all others train on, teach it nothing.
  'supervised': _METHODS['supervised']._replace(
    make=changed(_METHODS['supervised'].make, _labelled)
  ),
  'semi_supervised': Row(
    'DIM(L) with InfoNCE and all labels',
    semi_supervised,
    {
      'source': 'Hjelm et al. 2019, table 2, SS',
      'row': 'DIM(L) infoNCE',
      'error_12': 23.19,
    },
  ),
  'folded': Row(
    'DIM(L) on strided crops, against CPC',
    changed(local_infonce, dim_cifar10.folded('foldalex64')),
    published(f'CPC comparison {MEMORY}', 'DIM(L) single global', 76.97),
  ),
  'folded_globals': Row(
    'DIM(L) on strided crops with multiple globals, against CPC',
    changed(
      local_infonce,
      dim_cifar10.folded('foldmultialex64'),
      dim_cifar10.several_globals,
    ),
    published(f'CPC comparison {MEMORY}', 'DIM(L) multiple globals', 78.21),
  ),
  'cpc': Row(
    'CPC on strided crops',
    changed(local_infonce, dim_cifar10.predictive_coding('foldalex64_cpc', 16)),
    dim_cifar10.published_cpc(77.81),
  ),
}

TABLE = dim_rows.TABLE


def get_config(row: str | None = None) -> ExperimentConfig:
  """Returns the config of a row of `ROWS`."""
  return get(ROWS, row)
