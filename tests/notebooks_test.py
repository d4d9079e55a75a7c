"""Notebooks run from top to bottom, and are committed without outputs.

With small settings; with their own, as a reader runs them, where the variable
WHOLE_NOTEBOOKS is set (`make notebooks`).
"""

import json
import os
import pathlib
import warnings

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn import datasets

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / 'notebooks').iterdir())
# Small settings, in place of the first code cell's.
SETTINGS = {
  'deep_infomax': {'STEPS': 2, 'DRAWS': 1},
  'bottleneck': {'STEPS': 10},
  'greedy_infomax': {'STEPS': 2, 'ITERATIONS': 5},
  'own_images': {'STEPS': 4, 'PROBES': ('knn',)},
  'mutual_information': {'BATCHES': 60, 'STEPS': 5, 'PAIRS': 400},
  'stein': {'STEPS': 20},
  'dynamics': {},
}


def infonce_meets_the_truth(printed):
  truth, infonce = (float(line.split()[1]) for line in printed[:2])
  np.testing.assert_allclose(truth, -0.5 * np.log(1 - 0.9**2), atol=5e-4)
  np.testing.assert_allclose(infonce, truth, atol=0.1)


def rate_is_information_plus_mismatch(printed):
  assert float(printed[0].split()[-2]) < 1e-3
  # And both terms reach the encoder.
  assert [line.split()[0] for line in printed[1:3]] == ['cross-entropy', 'rate']
  assert min(float(line.split()[-1]) for line in printed[1:3]) > 1e-3


def no_gradient_passes_a_wall(printed):
  greedy = printed.index('Greedy InfoMax') + 2
  norms = np.array(
    [[float(x) for x in line.split()[1:]] for line in printed[greedy:][:4]]
  )
  assert np.all(np.diag(norms) > 0)
  np.testing.assert_array_equal(norms, np.diag(np.diag(norms)))
  (end_to_end,) = (
    [float(x) for x in line.split()[1:]]
    for line in printed[printed.index('CPC') + 2 :][:1]
  )
  assert min(end_to_end) > 0


def log_z_is_learned_from_the_model(printed):
  exact, model, data = (
    np.array(line[line.index('[') + 1 : -1].split(), float)
    for line in printed[:3]
  )
  np.testing.assert_allclose(model, exact, atol=0.05)
  assert np.abs(data - exact).max() > 0.5
  # By hand: KL(N(0, 1) || N(1, 4)) is ln 2 - 1/4, and after the move
  # ln(2 / 1.03) + (1.03^2 + 0.95^2) / 8 - 1/2.
  moved = np.log(2 / 1.03) + (1.03**2 + 0.95**2) / 8 - 0.5
  for line in printed[3:5]:
    difference = float(line.split()[-2])
    np.testing.assert_allclose(difference, np.log(2) - 0.25 - moved, atol=5e-4)


def bounds_of_the_exact_critic_are_the_published_ones(printed):
  # Mean and standard deviation of a batch at 2 and at 10 nats, of 3,000 batches
  # by another implementation.
  published = {
    'InfoNCE': ((1.81, 0.19), (4.12, 0.04)),
    'DV': ((2.01, 0.25), (11.27, 1.34)),
    'SMILE 1': ((2.38, 0.24), (10.96, 0.45)),
    'SMILE 5': ((2.03, 0.25), (12.05, 0.70)),
  }
  for name, expected in published.items():
    (line,) = (line for line in printed[1:6] if line.startswith(name + ' '))
    numbers = line[9:].replace('±', ' ').split()
    for mean, (theirs, std) in zip(numbers[::8], expected, strict=True):
      # Of 60 batches, and half of the last digit.
      assert abs(float(mean) - theirs) < 3 * std / np.sqrt(60) + 0.005, line
  # The batches are the same, so what lacks is 1 - (1 - 1/e) E_q[r].
  (low,) = (line.split() for line in printed if line.startswith('truth 2:'))
  np.testing.assert_allclose(float(low[2]) - float(low[6]), 1 / np.e, atol=0.05)


def own_images_are_read_and_their_neighbours_are_alike(printed):
  counts = np.bincount(datasets.load_digits().target)
  expected = [f'{label:<12} {n} images' for label, n in enumerate(counts)]
  assert printed[:10] == expected
  # A fifth of the images is the test set.
  tested = round(counts.sum() / 5)
  assert abs(int(printed[-2].split()[0]) - tested) <= len(counts)
  # Digits lie near digits even in an encoder that hardly trained; else 0.1.
  assert float(printed[-1].split()[-1]) > 0.5
  kinds = {tuple(line.split()[:3]) for line in printed if ' knn ' in line}
  encoders = [('trained', 'y'), ('untrained', 'y'), ('raw', 'pixels')]
  assert kinds == {(*encoder, 'knn') for encoder in encoders}


def methods_have_their_orders(printed):
  # Its cells assert closed forms; here what a reader sees of them.
  for line in printed:
    if ' measured ' in line:
      expected, measured = line.split(' order ')[1].split(', measured ')
      np.testing.assert_allclose(float(measured), float(expected), atol=0.35)
  radius = {
    line.split(' radius')[0].strip(): float(line.split()[-1])
    for line in printed
    if ' radius at ' in line
  }
  # 60 steps of 0.2: each multiplies the square by 1 + h^2, by 1 - h^2 + h^4.
  np.testing.assert_allclose(radius['at once'], 1.04**30, rtol=1e-3)
  np.testing.assert_allclose(radius['extragradient'], 0.9616**30, rtol=2e-3)
  assert radius['flow'] == 1


# Of each page, its first results.
CHECKS = {
  'own_images': own_images_are_read_and_their_neighbours_are_alike,
  'deep_infomax': infonce_meets_the_truth,
  'bottleneck': rate_is_information_plus_mismatch,
  'greedy_infomax': no_gradient_passes_a_wall,
  'mutual_information': bounds_of_the_exact_critic_are_the_published_ones,
  'stein': log_z_is_learned_from_the_model,
  'dynamics': methods_have_their_orders,
}


@pytest.fixture(autouse=True)
def interactive_defaults():
  """A notebook's user promotes ranks as NumPy does."""
  with jax.numpy_rank_promotion('allow'):
    yield
  plt.close('all')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, capsys):
  cells = json.loads(path.read_text())['cells']
  code = [cell for cell in cells if cell['cell_type'] == 'code']
  for cell in code:
    assert cell['outputs'] == [] and cell['execution_count'] is None
  settings = {} if 'WHOLE_NOTEBOOKS' in os.environ else SETTINGS[path.stem]
  first, *rest = (''.join(cell['source']) for cell in code)
  namespace: dict = {}
  exec(first, namespace)
  # A setting that the notebook no longer has would change nothing.
  assert settings.keys() <= namespace.keys()
  namespace |= settings
  with warnings.catch_warnings():
    # The test's backend draws no window, and says so.
    warnings.filterwarnings('ignore', 'FigureCanvasAgg is non-interactive')
    for source in rest:
      exec(compile(source, path.name, 'exec'), namespace)
  CHECKS[path.stem](capsys.readouterr().out.splitlines())
