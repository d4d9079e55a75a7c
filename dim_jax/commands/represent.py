r"""Measures a run's representation beside the untrained encoder's.

  dim-jax represent runs/digits
  dim-jax represent runs/cifar10 --features=y \
      --measures=reconstruction,rank --decoder_width=512 --decoder_rate=1e-4

One table has a row for each feature and encoder: accuracies of a linear SVM,
nearest neighbours and few labels; how well a decoder reconstructs test images
(MS-SSIM); I(X; Y + noise) and the dependence of dimensions (NDM) in nats;
RankMe, alpha-ReQ and LiDAR; of a stochastic code its active units, their
capacity and rate. Deep InfoMax's table follows where it has the run.

Writes RUN/evaluation/representation.json, where a later call adds to what is
there, and reconstructions.png and .csv; the probes go to probes.json too.
"""

import os

from dim_jax.commands.command import Command, show
from dim_jax.evaluation import probes, reconstruction
from dim_jax.runs import evaluate as evaluate_lib
from dim_jax.runs import represent as represent_lib

_COMMAND = Command('represent', __doc__, takes='RUN')
_DEFAULT = represent_lib.Settings()
_add, _items = _COMMAND.integer, _COMMAND.items
_ARGUMENTS = {
  'measures': _items('measures', represent_lib.MEASURES, 'What to measure.'),
  'features': _items('features', None, 'Features to measure; by default all.'),
  'encoders': _items('encoders', evaluate_lib.ENCODERS, 'Encoders to measure.'),
  'max_examples': _add('max_examples', None, 'Training examples to keep.'),
  'step': _add('step', None, 'Step of the checkpoint, or the newest.'),
}
_EPOCHS = _add(
  'decoder_epochs', _DEFAULT.decoder.epochs, 'Epochs of the decoder.'
)
_RATE = _COMMAND.real(
  'decoder_rate',
  _DEFAULT.decoder.learning_rate,
  'Learning rate of the decoder, which falls tenfold at 1/2 and 3/4.',
)
_WIDTH = _add(
  'decoder_width',
  _DEFAULT.channels,
  "Channels of the decoder's 4x4 map; the paper has 512.",
)
_NOISE = _COMMAND.real(
  'noise',
  _DEFAULT.noise,
  'Noise added to features, in their standard deviations.',
)
_SEED = _add('seed', 0, 'Seed of decoders, views and estimates.')


@_COMMAND.main
def main(runs: list[str]) -> None:
  arguments = {name: flag.value for name, flag in _ARGUMENTS.items()}
  epochs, seed = _EPOCHS.value, _SEED.value
  decay = probes.decay_epochs(epochs)
  decoder = reconstruction.Settings(
    epochs=epochs, decay_epochs=decay, learning_rate=_RATE.value, seed=seed
  )
  settings = represent_lib.Settings(decoder, _WIDTH.value, _NOISE.value, seed)
  for run in runs:
    results = represent_lib.represent(run, settings=settings, **arguments)
    path = os.path.join(run, 'evaluation', 'representation.json')
    show(*represent_lib.summary(results), path)
