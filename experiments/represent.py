r"""Measures a run's representation in many ways, beside the untrained one.

  python -m experiments.represent runs/digits
  python -m experiments.represent runs/cifar10 --features=y \
      --measures=reconstruction,rank --decoder_width=512 --decoder_rate=1e-4

One table has a row for each feature and encoder: accuracies of a linear SVM,
nearest neighbours and few labels; how well a decoder reconstructs test images
(MS-SSIM); the information I(X; Y + noise) and the dependence of dimensions
(NDM) in nats; RankMe, alpha-ReQ and LiDAR. Deep InfoMax's own such table stands
below it where the run is one of its rows.

Writes RUN/evaluation/representation.json, where a later call adds to what is
there, and reconstructions.png and .csv; the probes go to probes.json too.
"""

import os

from dim_jax.evaluation import reconstruction
from dim_jax.runs import represent as represent_lib
from experiments.command import Command, show

_COMMAND = Command('represent', __doc__, runs=True)
_DEFAULT = represent_lib.Settings()
_MEASURES = _COMMAND.items('measures', represent_lib.MEASURES, 'Which.')
_FEATURES = _COMMAND.items('features', None, 'Such as fc,y; all if left out.')
_MOST = _COMMAND.integer('max_examples', None, 'Training examples kept.')
_STEP = _COMMAND.integer('step', None, 'A checkpoint; the newest if left out.')
_EPOCHS = _COMMAND.integer(
  'decoder_epochs', _DEFAULT.decoder.epochs, 'Rate x 0.1 at 1/2 and 3/4.'
)
_RATE = _COMMAND.real(
  'decoder_rate', _DEFAULT.decoder.learning_rate, "Of Adam; the paper's: 1e-4."
)
_WIDTH = _COMMAND.integer(
  'decoder_width', _DEFAULT.channels, "Channels at 4x4; the paper's are 512."
)
_NOISE = _COMMAND.real('noise', _DEFAULT.noise, 'In standard deviations.')
_SEED = _COMMAND.integer('seed', 0, 'Of decoders, views and estimates.')


@_COMMAND.main
def main(runs: list[str]) -> None:
  epochs, seed = _EPOCHS.value, _SEED.value
  decay = sorted({max(1, epochs // 2), max(1, 3 * epochs // 4)})
  decoder = reconstruction.Settings(
    epochs=epochs,
    decay_epochs=tuple(decay),
    learning_rate=_RATE.value,
    seed=seed,
  )
  for run in runs:
    results = represent_lib.represent(
      run,
      measures=_MEASURES.value,
      features=_FEATURES.value,
      max_examples=_MOST.value,
      settings=represent_lib.Settings(
        decoder, _WIDTH.value, _NOISE.value, seed
      ),
      step=_STEP.value,
    )
    path = os.path.join(run, 'evaluation', 'representation.json')
    show(*represent_lib.summary(results), path)


if __name__ == '__main__':
  main()
