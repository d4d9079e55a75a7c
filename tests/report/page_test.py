"""The page: complete in itself, right in its numbers, calm about gaps."""

import html.parser
import json
import math
import re
import subprocess
import sys

import matplotlib.figure
import numpy as np
import pytest

from dim_jax.report import figures, page, runs
from dim_jax.report.sections import (
  attacks,
  classification,
  curves,
  probes,
  summary,
  sweep,
)


def _result(encoder, feature, probe, *values):
  return {
    'encoder': encoder,
    'feature': feature,
    'probe': probe,
    'mean': float(np.mean(values)),
    'std': float(np.std(values)),
    'values': list(values),
  }


_PROBES = {
  'dataset': 'digits',
  'note': 'A JPEG copy.',
  'step': 40,
  'protocol': {'few_labels': 5},
  'protocol_hash': '0123456789ab',
  'command': ['evaluate', 'a run'],
  'hardware': 'one abacus',
  'versions': {'jax': '1.2.3'},
  'seconds': 3.0,
  'chance': 0.125,
  'paper': {
    'source': 'Hjelm et al. 2019, table 1',
    'row': 'DIM(L) infoNCE',
    'probe': 'mlp',
    'y': 69.13,
  },
  'results': [
    _result('trained', 'y', 'linear', 0.90, 0.92),
    _result('trained', 'y', 'mlp', 0.75, 0.75),
    _result('trained', 'y', 'linear_few', 0.5, 0.7),
    _result('untrained', 'y', 'linear', 0.80, 0.82),
    _result('untrained', 'y', 'mlp', 0.625, 0.625),
    _result('untrained', 'y', 'linear_few', 0.5, 0.5),
    _result('raw', 'pixels', 'linear', 0.85, 0.85),
    _result('raw', 'pixels', 'mlp', 0.5, 0.5),
    _result('raw', 'pixels', 'linear_few', 0.55, 0.55),
  ],
}


def _make_run(folder, *, nan=False, evaluation=True, **objective):
  folder.mkdir(parents=True)
  config = {
    'type': 'dim_jax.config:ExperimentConfig',
    'objective': {
      'type': 'dim_jax.objectives.dim:Config',
      'encoder': 'small32',
      'bound': 'infonce',
    }
    | objective,
    'data': {'name': 'digits'},
    'batch_size': 64,
    'steps': 40,
    'seed': 0,
    'input_shape': [8, 8, 1],
  }
  (folder / 'config.json').write_text(json.dumps(config))
  info = {'command': 'train it', 'hardware': 'one abacus', 'commit': 'c0ffee'}
  (folder / 'run.json').write_text(json.dumps(info))
  seconds = {'compile': 30.0, 'step': 60.0, 'total': 90.0}
  (folder / 'summary.json').write_text(json.dumps({'seconds': seconds}))
  lines = [
    {
      'step': 20 * (t + 1),
      'images': 1280 * (t + 1),
      'seconds': 60.0 * (t + 1),
      'images_per_s': 100.0 * (t + 1),
      'mi/local': math.nan if nan and t == 0 else 1.0 + t,
      'mi/local_ceiling': 8.0,
      'prior/encoder': 0.7,
      'encoder/std': 1.0,
      'encoder/effective_rank': 4.0,
      'probe/y_accuracy': 0.5,
      'probe/y_loss': 1.0,
    }
    for t in range(2)
  ]
  # The last line is cut, as a killed run leaves it.
  text = '\n'.join(json.dumps(line) for line in lines) + '\n{"step": 60, "im'
  (folder / 'metrics.jsonl').write_text(text)
  if evaluation:
    (folder / 'evaluation').mkdir()
    (folder / 'evaluation/probes.json').write_text(json.dumps(_PROBES))
    random = np.random.default_rng(0)
    labels = np.arange(24) % 3
    np.savez(
      folder / 'evaluation/features.npz',
      images=random.integers(0, 255, (24, 8, 8, 1)).astype(np.uint8),
      labels=labels,
      class_names=np.array(['ant', 'bee', 'cow']),
      trained_y=random.normal(size=(24, 4)).astype(np.float32),
      untrained_y=np.ones((24, 4), np.float32),
      scores_positive=random.normal(size=30).astype(np.float32),
      scores_negative=random.normal(size=30).astype(np.float32),
    )
  return folder


class _Parser(html.parser.HTMLParser):
  """Collects tags with attributes, and the cells of tables."""

  def __init__(self, path):
    super().__init__()
    self.tags, self.rows, self._cell = [], [], False
    with open(path, encoding='utf-8') as file:
      self.text = file.read()
    self.feed(self.text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == 'tr':
      self.rows.append([])
    if tag in ('td', 'th'):
      self.rows[-1].append('')
      self._cell = True

  def handle_endtag(self, tag):
    if tag in ('td', 'th'):
      self._cell = False

  def handle_data(self, data):
    if self._cell:
      self.rows[-1][-1] += data

  def of(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope='module')
def full(tmp_path_factory):
  run = _make_run(tmp_path_factory.mktemp('runs') / 'full', nan=True)
  return run, _Parser(page.write([run]))


def test_page_needs_nothing_else(full):
  _, parsed = full
  assert not parsed.of('script') and not parsed.of('link')
  addresses = [
    attrs[name]
    for _, attrs in parsed.tags
    for name in ('src', 'href', 'srcset')
    if name in attrs
  ]
  assert addresses and all(a.startswith('data:') for a in addresses)
  assert 'url(' not in parsed.text and '@import' not in parsed.text


def test_every_figure_has_its_files(full):
  run, parsed = full
  names = [attrs['id'] for attrs in parsed.of('figure')]
  assert names == [
    'mi', 'prior', 'probe', 'rank', 'std', 'probes', 'pca_trained',
    'tsne_trained', 'neighbours', 'scores_trained', 'spectrum_y',
  ]  # fmt: skip
  images = parsed.of('img')
  assert len(images) == len(names)
  assert all(len(image['alt']) > 20 for image in images)
  for name in names:
    for ending in ('.png', '.csv'):
      assert (run / 'report' / f'{name}{ending}').stat().st_size > 0


def test_a_notebook_has_the_pictures_by_the_names_of_their_files(tmp_path):
  run = tmp_path / 'run'
  _make_run(run, evaluation=False)
  page.write([run])
  drawn = page.pictures(run)
  files = {path.stem for path in (run / 'report').glob('*.png')}
  assert {'mi', 'probe', 'rank'} <= files == drawn.keys()
  # The curve of the figure is that of the metrics, in nats.
  figure = drawn['mi'].figure()
  assert isinstance(figure, matplotlib.figure.Figure)
  assert figure._repr_png_().startswith(b'\x89PNG')
  (line, *_) = figure.axes[0].get_lines()
  np.testing.assert_array_equal(line.get_xydata(), [[20, 1.0], [40, 2.0]])
  with pytest.raises(FileNotFoundError, match='is not a run'):
    page.pictures(tmp_path)
  with pytest.raises(ValueError, match='at least one run'):
    page.pictures([])


def test_tables_and_gap(full):
  _, parsed = full
  # 75.00 - 69.13 = 5.87; linear: mean 0.91, deviation 0.01.
  assert parsed.rows[:5] == [
    ['encoder', 'feature', 'linear (n=2)', 'MLP (n=2)',
     'linear, 5 labels per class (n=2)', 'paper (MLP)', 'gap, points'],
    ['trained', 'y', '91.0\xa0±\xa01.0', '75.0\xa0±\xa00.0',
     '60.0\xa0±\xa010.0', '69.13', '+5.9'],
    ['untrained', 'y', '81.0\xa0±\xa01.0', '62.5\xa0±\xa00.0',
     '50.0\xa0±\xa00.0', '–', '–'],
    ['raw', 'pixels', '85.0\xa0±\xa00.0', '50.0\xa0±\xa00.0',
     '55.0\xa0±\xa00.0', '–', '–'],
    ['neighbours by', 'of the same class, %'],
  ]  # fmt: skip
  assert [row[0] for row in parsed.rows[5:]] == [
    'trained y',
    'raw pixels',
    'chance level',
  ]
  # Three classes of eight images each: 7 of 23 others are of a query's own.
  assert parsed.rows[-1][1] == '30.4'
  assert 'A JPEG copy.' in parsed.text and '0123456789ab' in parsed.text
  assert 'Always the commonest class: 12.5 %.' in parsed.text


def test_warnings_come_from_the_numbers(full):
  # 91 +- 1 clears 81 +- 1 and 85 +- 0; 60 +- 10 clears neither 50 nor 55.
  assert probes.warnings(runs.read(full[0])) == [
    'The linear, few labels probe of class is not clearly above untrained at '
    'y; raw pixels at y.'
  ]


def test_labels_are_apart_and_class_is_meant_without_one(tmp_path):
  old = _make_run(tmp_path / 'old')
  new = _make_run(tmp_path / 'new')
  results = [r | {'label': 'class'} for r in _PROBES['results']]
  more = _PROBES | {'chance': {'class': 0.125}, 'results': results}
  (new / 'evaluation/probes.json').write_text(json.dumps(more))
  # The same numbers in either form of the file give the same page.
  texts = [_Parser(page.write([run])).text for run in (old, new)]
  assert texts[0].replace('old', 'new') == texts[1].replace('old', 'new')
  speaker = _result('trained', 'y', 'linear', 0.3) | {'label': 'speaker'}
  more = more | {'results': [*results, speaker]}
  more['chance']['speaker'] = 0.25
  (new / 'evaluation/probes.json').write_text(json.dumps(more))
  parsed = _Parser(page.write([new]))
  assert ['trained', 'y', '30.0'] in parsed.rows
  assert 'Always the commonest speaker: 25.0 %.' in parsed.text
  # 30 is above 25, for one seed has no standard deviation.
  assert 'probe of speaker' not in parsed.text
  assert (new / 'report/probes_speaker.csv').exists()


def test_what_is_not_finite_or_collapsed_is_said(full):
  _, parsed = full
  assert 'mi/local was not finite at 1 of 2 logged steps' in parsed.text
  assert 'untrained y features are not drawn: they are the same' in parsed.text


def test_curves_are_called_what_they_are_of(tmp_path):
  # Hellinger's distance has no unit and bounds no information, a marginal by
  # class bounds what is beyond the class, no image is held out, one dimension
  # has rank 1, and Wasserstein's critic may give all codes any one score.
  folder = _make_run(
    tmp_path / 'odd',
    evaluation=False,
    bound='squared_hellinger',
    marginal='class',
    code=1,
    prior={'divergence': 'wgan'},
  )
  path = folder / 'metrics.jsonl'
  line = path.read_text().splitlines()[0]
  values = json.loads(line) | {
    'encoder/effective_rank': 1.0,
    'encoder/rate': 2.0,
    'prior/adversary': 0.1,
  }
  path.write_text(json.dumps(values) + '\n')
  text = _Parser(page.write([folder])).text
  for words in (
    'Divergence of pairs',
    'An upper bound on I(X;Z|Y): the KL',
    'Over training images',
  ):
    assert words in text, words
  assert 'Mutual information' not in text and 'has collapsed' not in text
  parts = curves.section([runs.read(folder)])
  (prior,) = (x for x in parts if getattr(x, 'name', '') == 'prior')
  # A line's last number is its level.
  assert {row[0]: row[-1] for row in prior.rows} == {
    'adversary': 0.0, 'encoder': None
  }  # fmt: skip


def test_summary(full):
  _, parsed = full
  text = ' '.join(re.sub('<[^>]*>', ' ', parsed.text).split())
  for part in (
    '40, 2,560 images seen, batch 64, seed 0',
    '2 min, median 150 images/s',
    'compile 30 s, step 60 s, total 90 s',
    'Hardware (train, evaluate) one abacus',
    'Versions (evaluate) jax 1.2.3',
    'Commit (train) c0ffee',
    'train it',
    'evaluate &#39;a run&#39;',
  ):
    assert part in text


def test_missing_evaluation_says_what_to_run(tmp_path):
  run = _make_run(tmp_path / 'bare', evaluation=False)
  parsed = _Parser(page.write([run]))
  assert f'dim-jax evaluate {run}' in parsed.text
  assert 'is not evaluated yet' in parsed.text
  assert [f['id'] for f in parsed.of('figure')] == [
    'mi', 'prior', 'probe', 'rank', 'std',
  ]  # fmt: skip


def test_several_runs(tmp_path):
  runs = [
    _make_run(tmp_path / 'a'),
    _make_run(tmp_path / 'b', evaluation=False, bound='jsd'),
  ]
  path = page.write(runs, tmp_path / 'out')
  parsed = _Parser(path)
  assert path == str(tmp_path / 'out/index.html')
  assert ['objective.bound', 'infonce', 'jsd'] in parsed.rows
  assert 'b is not evaluated yet' in parsed.text
  lines = (tmp_path / 'out/mi_local.csv').read_text().splitlines()
  assert lines[1:] == [
    'a,20,1.0,1.0,8.0',
    'a,40,2.0,2.0,8.0',
    'b,20,1.0,1.0,8.0',
    'b,40,2.0,2.0,8.0',
  ]


def test_table_of_several_runs():
  other = json.loads(json.dumps(_PROBES)) | {
    'protocol_hash': 'ffffffffffff',
    'paper': None,
    'results': [_result('trained', 'y', 'mlp', 0.65, 0.65, 0.65)],
  }
  table = probes.table([('a', _PROBES), ('b', other)])
  # The seeds differ between the runs, so each cell says its own.
  header, rows = table.header, table.rows
  assert header[:5] == ['encoder', 'feature', 'run', 'linear (n=2)', 'MLP']
  assert rows[0][2:5] == ['a', '91.0\xa0±\xa01.0', '75.0\xa0±\xa00.0 (n=2)']
  assert rows[1] == [
    'trained', 'y', 'b', '–', '65.0\xa0±\xa00.0 (n=3)', '–', '–', '–',
  ]  # fmt: skip


def _classify(run, *, kind='diagonal', paper=None, error=1.25):
  """Writes what the evaluation of a classifier does, two images a class."""
  config = json.loads((run / 'config.json').read_text())
  config['objective'] = {
    'type': 'dim_jax.objectives.vib:Config',
    'covariance': kind,
    'beta': 0.001,
  }
  (run / 'config.json').write_text(json.dumps(config))
  results = [
    {
      'weights': weights,
      'split': split,
      'examples': 10_000,
      'error_1': error + 0.5,
      'error_12': error + (weights == 'raw'),
      'error_mean': error + 0.25,
      'cross_entropy_bits': 0.125,
      'rate_bits': None if kind == 'none' else 22.0,
      'izy_bits': 3.125,
      'nll_12': 0.0625,
      'brier': 0.03125,
      'ece': 0.015625,
      'ece_bins': 5,
    }
    for weights in ('average', 'raw')
    for split in ('train', 'test')
  ]
  attacks = [
    {
      'attack': 'pgd',
      'loss': 'margin',
      'mode': mode,
      'targeted': False,
      'norm': 'linf',
      'epsilon': 0.25,
      'accuracy': accuracy,
      'success': 100 - accuracy,
      'zero_gradients': 0.125,
      'l0': 30.0,
      'l2': 1.5,
      'linf': 0.25,
      'examples': 100,
    }
    for mode, accuracy in (('samples', 40.0), ('mean', 12.5))
  ]
  classification = {
    'dataset': 'digits',
    'note': 'A JPEG copy.',
    'step': 40,
    'samples': 12,
    'hardware': 'one abacus',
    'paper': paper,
    'bottleneck': kind,
    'label_entropy_bits': {'train': 3.25, 'test': 3.25},
    'log2_examples': {'train': 15.0, 'test': 13.0},
    'results': results,
    'attacks': attacks,
    'ood': [
      {
        'dataset': 'noise',
        'score': 'max_prob',
        'auroc': 0.75,
        'aupr': 0.5,
        'fpr95': 0.25,
      }
    ],
  }
  (run / 'evaluation').mkdir(exist_ok=True)
  (run / 'evaluation/classification.json').write_text(
    json.dumps(classification)
  )
  random = np.random.default_rng(0)
  labels = np.arange(6) % 3
  np.savez(
    run / 'evaluation/classification.npz',
    images=random.integers(0, 255, (6, 8, 8, 1)).astype(np.uint8),
    labels=labels,
    class_names=np.array(['ant', 'bee', 'cow']),
    rate=np.full(6, np.nan) if kind == 'none' else random.uniform(1, 9, 6),
    rate_by_dimension=np.ones(2),
    unit_variance=np.array([0.5, 0.0]),
    unit_signal_to_noise=np.array([3.0, 0.0]),
    unit_capacity=np.array([0.75, 0.0]),
    unit_rate=np.array([1.5, 0.25]),
    cross_entropy=random.uniform(0, 1, 6),
    probabilities=np.eye(3)[labels] * 0.7 + 0.1,
    means=random.normal(size=(4, 2)),
    chols=np.broadcast_to(0.1 * np.eye(2), (4, 2, 2)),
    entropy=np.ones((8, 8)),
    extent=np.array([-3.0, 3.0, -3.0, 3.0]),
  )
  return run


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  run = _make_run(tmp_path_factory.mktemp('runs') / 'vib', evaluation=False)
  paper = {'source': 'Alemi et al. 2017', 'row': 'VIB', 'error_12': 1.13}
  return _Parser(page.write([_classify(run, paper=paper)]))


def test_classifier_tables(classifier):
  rows = classifier.rows
  cells = ['0.125', '22.0', '3.125']
  cells += ['0.0625', '0.0312', '0.0156', '5']
  assert rows[:7] == [
    ['weights', 'split', 'error %, 1 sample', 'error %, 12 samples',
     'error %, z = mean', 'cross-entropy, bits', 'rate, bits (≥ I(Z;X))',
     'I(Z;Y) ≥, bits', 'NLL, nats', 'Brier score', 'ECE', 'bins'],
    ['average (EMA)', 'train', '1.75', '1.25', '1.50', *cells],
    ['average (EMA)', 'test', '1.75', '1.25', '1.50', *cells],
    ['raw', 'train', '1.75', '2.25', '1.50', *cells],
    ['raw', 'test', '1.75', '2.25', '1.50', *cells],
    ['paper', 'VIB', '–', '1.13', *['–'] * 8],
    ['gap', 'average (EMA) − paper', '–', '+0.12', *['–'] * 8],
  ]  # fmt: skip
  # At strength 0 the error of the unattacked: 1.25, and 1.50 at the mean.
  rest = ['–'] * 5
  assert ['PGD margin', 'samples', 'L∞', '0', '98.8', *rest, '10000'] in rows
  assert ['PGD margin', 'mean', 'L∞', '0', '98.5', *rest, '10000'] in rows
  assert [
    'PGD margin', 'mean', 'L∞', '0.25', '12.5', '87.5', '12.5', '30', '1.50',
    '0.250', '100',
  ] in rows  # fmt: skip
  assert rows[-1] == ['noise', 'max prob', '0.750', '0.500', '0.250']


def test_classifier_warnings_and_pictures(classifier):
  # sqrt(0.0125 * 0.9875 / 10000) = 0.00111.
  for part in (
    'One standard error of the test error at 10,000 examples: 0.11 points.',
    'On test H(Y) 3.250 bits, log₂ N 13.0 bits.',
    'More than a tenth of the gradients are exactly zero, or the steps too '
    'short for saturated pixels, in the attacks PGD margin samples L∞, PGD '
    'margin mean L∞',
    'one abacus',
  ):
    assert part in classifier.text
  assert 'dim-jax evaluate' not in classifier.text
  shown = [attrs['id'] for attrs in classifier.of('figure')]
  assert shown[-5:] == [
    'rates', 'ellipses', 'highest_loss', 'units', 'attacks',
  ]  # fmt: skip
  units = ['1', '2', '0.500', '0.75', '1.75']
  assert units in classifier.rows


def test_classifier_without_a_bottleneck_beside_one(tmp_path):
  paths = [
    _classify(_make_run(tmp_path / 'vib', evaluation=False)),
    _classify(
      _make_run(tmp_path / 'plain', evaluation=False), kind='none', error=2.0
    ),
  ]
  parsed = _Parser(page.write(paths))
  rows = [row[:8] for row in parsed.rows]
  assert rows[rows.index(
    ['average (EMA)', 'test', 'vib', '1.75', '1.25', '1.50', '0.125', '22.0']
  ) + 1] == [
    'average (EMA)', 'test', 'plain', '2.50', '2.00', '2.25', '0.125', '–',
  ]  # fmt: skip
  assert 'attacks' in [attrs['id'] for attrs in parsed.of('figure')]
  # Nothing is said of a rate that is not there.
  assert classification.warnings(runs.read(paths[1])) == []


def test_classifier_not_evaluated_says_what_to_run(tmp_path):
  run = _classify(_make_run(tmp_path / 'vib', evaluation=False))
  (run / 'evaluation/classification.json').unlink()
  (run / 'evaluation/classification.npz').unlink()
  parsed = _Parser(page.write([run]))
  assert f'dim-jax classify {run}' in parsed.text


def test_detection_below_chance_is_explained(tmp_path):
  run = runs.read(_classify(_make_run(tmp_path / 'vib', evaluation=False)))
  _, note = attacks.detection([run])
  assert 'no slip' not in note.text
  run.classification['ood'][0]['auroc'] = 0.06
  table, note = attacks.detection([run])
  assert table.rows == [['noise', 'max prob', '0.060', '0.500', '0.250']]
  assert 'Well below 0.5 is no slip' in note.text


def test_sweep(tmp_path):
  data = {
    'dataset': 'digits',
    'code': 2,
    'betas': [0.001, 0.1],
    'seeds': [0, 1],
    'label_entropy_bits': {'train': 3.3, 'test': 3.25},
    'log2_examples': {'train': 15.0, 'test': 13.0},
    'seconds': 600.0,
    'command': 'sweep it',
    'hardware': 'one abacus',
    'versions': {'jax': '1.2.3'},
    'rows': [
      {
        'beta': beta,
        'seed': seed,
        'split': split,
        'weights': weights,
        'error_1': 4.0,
        'error_12': 2.0 + seed + 10 * beta + 50 * (weights == 'raw'),
        'rate_bits': 0.01 / beta,
        'izy_bits': 3.0 - beta,
        'cross_entropy_bits': 0.25 + beta,
      }
      for beta in (0.001, 0.1)
      for seed in (0, 1)
      for split in ('train', 'test')
      for weights in ('average', 'raw')
    ],
  }
  (tmp_path / 'sweep.json').write_text(json.dumps(data))
  path = page.write([tmp_path])
  assert path == str(tmp_path / 'report/index.html')
  parsed = _Parser(path)
  # Of 2.01 and 3.01: deviation sqrt(1/2). Raw weights are left out.
  assert [
    'test', '0.001', '2', '4.00\xa0±\xa00.00', '2.51\xa0±\xa00.71',
    '10.00\xa0±\xa00.00', '2.999\xa0±\xa00.000',
  ] in parsed.rows  # fmt: skip
  assert (
    'Least test error with 12 samples: 2.51 ± 0.71 % at beta 0.001. This beta '
    'is chosen on the test set'
  ) in parsed.text
  assert '<b>sweep</b> <b>it</b>' in parsed.text
  facts = sweep.facts(tmp_path, data)
  assert facts['Hardware'] == 'one abacus' and facts['Versions'] == 'jax 1.2.3'
  assert [attrs['id'] for attrs in parsed.of('figure')] == [
    'beta_sweep', 'information_plane',
  ]  # fmt: skip
  with pytest.raises(ValueError, match='alone, got 2 folders'):
    page.write([tmp_path, tmp_path / 'other'])


def test_sweep_without_rows(tmp_path):
  (tmp_path / 'sweep.json').write_text('{"rows": []}')
  with pytest.raises(ValueError, match=r"sweep\.json' has no rows"):
    page.write([tmp_path])


def test_not_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'it has no config\.json'):
    page.write([tmp_path])
  with pytest.raises(FileNotFoundError, match='it is no folder'):
    page.write([tmp_path / 'nowhere'])
  with pytest.raises(ValueError, match='at least one run'):
    page.write([])


def test_damaged_metrics_name_the_line(tmp_path):
  run = _make_run(tmp_path / 'run', evaluation=False)
  (run / 'metrics.jsonl').write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
  with pytest.raises(ValueError, match="line 2 is not JSON: 'rubbish'"):
    runs.read(run)


def test_command_says_a_mistake_in_one_line(tmp_path):
  found = subprocess.run(
    [sys.executable, '-m', 'experiments.report', str(tmp_path)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 1
  assert found.stderr.startswith('Error: ')
  assert found.stderr.count('\n') == 1


def test_settings_of_groups_are_settings():
  values = {
    'type': 'a:B',
    'beta': 0.5,
    'none': None,
    'prior': {'type': 'a:C', 'divergence': 'jsd', 'units': [8, 4]},
    'modules': [{'type': 'a:D'}],
  }
  assert runs.scalars(values) == (
    'beta 0.5, prior divergence jsd, prior units 8 4'
  )


def test_parameters_of_old_runs_are_counted_in_a_checkpoint(tmp_path):
  run = _make_run(tmp_path / 'run', evaluation=False)
  (run / 'run.json').unlink()
  assert 'Parameters' not in summary.facts(runs.read(run))
  folder = run / 'checkpoints/40'
  folder.mkdir(parents=True)
  tensors = {
    'step': 'int32 ()',
    'params/encoder/y/bias': 'float32 (8,)',
    'params/encoder/y/kernel': 'float32 (100, 8)',
    'params/scale': 'float32 ()',
    'opt_state/0/encoder/y/bias': 'float32 (8,)',
  }
  (folder / 'contents.json').write_text(json.dumps({'tensors': tensors}))
  text = summary.facts(runs.read(run))['Parameters']
  assert text == '809 (encoder.y 808, scale 1)'


def test_what_was_skipped_is_a_warning(tmp_path):
  run = _make_run(tmp_path / 'run')
  left_out = {'what': 'mlp of y', 'reason': 'too few rows'}
  probes_file = run / 'evaluation/probes.json'
  probes_file.write_text(json.dumps(_PROBES | {'skipped': [left_out]}))
  assert summary.warnings(runs.read(run)) == [
    'Skipped by evaluate: mlp of y: too few rows'
  ]


def test_names_are_data(tmp_path):
  run = _make_run(tmp_path / 'a <b> & "c"')
  with np.load(run / 'evaluation/features.npz') as file:
    arrays = dict(file)
  arrays['class_names'] = np.array(['price $$', '<script>', 'naïve ☂'])
  np.savez(run / 'evaluation/features.npz', **arrays)
  config = json.loads((run / 'config.json').read_text())
  config['data']['name'] = '</pre><script>alert(1)</script>'
  (run / 'config.json').write_text(json.dumps(config))
  parsed = _Parser(page.write([run]))
  assert not parsed.of('script')
  assert 'pca_trained' in [attrs['id'] for attrs in parsed.of('figure')]
  assert 'naïve ☂' in (run / 'report/pca_trained.csv').read_text('utf-8')


def test_one_failing_picture_is_left_out(tmp_path, monkeypatch):
  def fail(*args, **kw):
    raise ValueError('no ink')

  monkeypatch.setattr(figures, 'spectrum', fail)
  run = _make_run(tmp_path / 'run')
  broken = figures.Picture('x', 'Broken', '', '', (), [], fail)
  monkeypatch.setattr(figures, 'probes', lambda results, name: broken)
  parsed = _Parser(page.write([run]))
  assert 'A picture (Spectrum of y) is left out: ValueError: no ink' in (
    parsed.text
  )
  assert 'The picture “Broken” is left out: ValueError: no ink' in parsed.text
  assert 'scores_trained' in [attrs['id'] for attrs in parsed.of('figure')]


def test_a_method_that_nobody_knows(tmp_path):
  run = _make_run(tmp_path / 'run')
  config = json.loads((run / 'config.json').read_text())
  config['objective'] = {'type': 'elsewhere.novel:Config', 'courage': 0.5}
  (run / 'config.json').write_text(json.dumps(config))
  lines = [
    {'step': t, 'novel/gain': 0.1 * t, 'novel/cost': 1.0} for t in (1, 2)
  ]
  (run / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n')
  info = {'title': 'Novelty', 'noun': 'leaves', 'parameters': {'leaf': 1234}}
  (run / 'run.json').write_text(json.dumps(info))
  parsed = _Parser(page.write([run]))
  assert [attrs['id'] for attrs in parsed.of('figure')][:2] == [
    'novel',
    'probes',
  ]
  for part in ('Novelty', 'courage 0.5', '1,234 (leaf 1,234)', 'leaves each'):
    assert part in parsed.text


def test_plotting_libraries_are_not_imported_before_they_are_needed():
  code = (
    'import sys, dim_jax.report.page; '
    "sys.exit(bool({'matplotlib', 'sklearn'} & set(sys.modules)))"
  )
  found = subprocess.run([sys.executable, '-c', code], check=False)
  assert found.returncode == 0
