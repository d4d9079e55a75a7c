"""DIM(L) with InfoNCE and labels on STL-10: Hjelm et al. 2019, table 2, SS.

  python -m experiments.train \
      --config=experiments/configs/dim_stl10_semi_supervised.py \
      --workdir=runs/dim_stl10_semi_supervised
  python -m experiments.classify runs/dim_stl10_semi_supervised

A small network on the last convolution learns the 5,000 labels together with
the encoder, beside Deep InfoMax on these and the 100,000 images without; as in
the 2018 code, the cross-entropy is added. A batch of 64 has three labels on
average. The JSD row is `--config.objective.bound=jsd`, an error of 23.04 % in
the paper. To fine-tune a run of dim_stl10_local_infonce.py instead, set
init_from to its folder, objective.local_weight and prior_weight to 0 and
data.unlabelled to False. Not trained here.
"""

from dim_jax.config import DataConfig, ExperimentConfig
from experiments.configs import dim_stl10_local_infonce


def get_config() -> ExperimentConfig:
  """`dim_stl10_local_infonce` with all labels, of weight 1."""
  config = dim_stl10_local_infonce.get_config()
  config.objective.supervised_weight = 1.0
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
  config.paper = {
    'source': 'Hjelm et al. 2019, table 2, SS',
    'row': 'DIM(L) infoNCE',
    'error_12': 23.19,
  }
  return config
