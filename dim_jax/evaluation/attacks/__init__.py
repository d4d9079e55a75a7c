"""Adversarial attacks on classifiers that may predict by sampling.

A classifier is a function `logits(variables, images, rng) -> [S, N, C]` of S
posterior samples, S = 1 for a deterministic one; images are float32 in [-1, 1].
Its prediction averages the samples' probabilities and takes the argmax.

Arguments that all attacks take:
  logits: the classifier; a program is compiled once per function object.
  variables: what it needs.
  images: uint8, or float in [-1, 1], [N, H, W, C].
  labels: true classes, integers in 0..C-1, [N].
  rng: split into evaluation noise and the attack's.
  loss: 'cross_entropy' or 'margin', see below; Carlini and Wagner's is fixed.
  targets: classes to reach, none its label, [N]; None attacks untargeted.
They return an `Attack`, and raise ValueError where an argument is not so.

Units: every epsilon, step size and norm here is in pixels that run from 0 to 1,
so an epsilon of 0.1 moves an image in [-1, 1] by 0.2. Images are returned as
float32 in [-1, 1], never outside.

A random network can look robust because its attacker is blind. So every step's
gradient is that of all S samples at once, with fresh noise (expectation over
transformations); the margin loss does not saturate where probabilities do; an
attack reports the examples that gave it no gradient; and `replay` tries
examples that were made on another model.

Losses, what an attacker raises, through all S samples at once: 'cross_entropy'
is minus the log of the averaged probability of the label, computed in log
space; its gradient vanishes where a network is sure beyond float32. 'margin' is
the largest other logit minus the label's, of logits averaged over samples; it
never saturates. With targets both are negated and taken at the target.

Evaluation noise: `rng` is split in two. The first half,
`jax.random.split(rng)[0]`, draws S samples that no gradient ever sees, the same
for the clean image, for every candidate of the search and for the image
returned. So `correct_before` and `success` differ by the perturbation alone (at
epsilon 0 they agree exactly), and both can be computed again. The search may
still exploit these S samples: `replay` with another `rng` shows by how much. An
attacker may also leave an image alone: where the clean image already succeeds
and the perturbed one does not, the clean image is returned.

Obfuscated gradients: Athalye, Carlini and Wagner, 2018.
https://arxiv.org/abs/1802.00420
"""

from dim_jax.evaluation.attacks.attack import L0_TOLERANCE, LOSSES, Attack
from dim_jax.evaluation.attacks.l2 import carlini_wagner
from dim_jax.evaluation.attacks.linf import fgsm, pgd
from dim_jax.evaluation.attacks.run import (
  in_batches,
  random_targets,
  replay,
  summary,
)

__all__ = [
  'L0_TOLERANCE',
  'LOSSES',
  'Attack',
  'carlini_wagner',
  'fgsm',
  'in_batches',
  'pgd',
  'random_targets',
  'replay',
  'summary',
]
