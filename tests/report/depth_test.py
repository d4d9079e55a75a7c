"""Runs of modules: methods named, errors by module, and gaps."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest
from matplotlib import image as image_lib

from dim_jax.report import figures, page, runs
from dim_jax.report.sections import curves, depth, probes, summary


def _result(encoder, feature, label, *values, probe='linear'):
  return {
    'encoder': encoder,
    'feature': feature,
    'label': label,
    'probe': probe,
    'mean': float(np.mean(values)),
    'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    'values': list(values),
    'protocol_hash': 'abc',
  }


def _make_run(
  folder,
  errors,
  *,
  seed=0,
  untrained=0.5,
  losses=(2.0, 1.0),
  title='Greedy InfoMax',
  **objective,
):
  """A run on sound; errors (fractions) of 'speaker' by module."""
  folder.mkdir(parents=True)
  config = {
    'objective': {
      'type': 'dim_jax.objectives.gim:Config',
      'modules': 'sound_small',
      'stop_gradient_after': None,
      'loss': 'infonce',
      'frozen': 0,
      'offsets': 12,
      'negatives': 10,
      'window': 64,
    }
    | objective,
    'data': {'name': 'spoken_digit'},
    'seed': seed,
    'steps': 20,
    'batch_size': 4,
    'input_shape': [2048],
  }
  (folder / 'config.json').write_text(json.dumps(config))
  info = {'title': title, 'parameters': {'module_0': 7, 'module_1': 9}}
  info['features'] = {'module_1': 'GRU'}
  (folder / 'run.json').write_text(json.dumps(info))
  lines = [
    {'step': 10 * (t + 1), 'images': 40 * (t + 1), 'encoder/std': 1.0}
    | {
      f'module_{i}/{key}': value
      for i in range(len(errors))
      for key, value in (
        ('infonce', losses[t] / (i + 1)),
        ('ceiling', 2.5),
        ('accuracy', 0.25),
      )
    }
    | {f'probe/module_{i}_accuracy': 0.5 for i in range(len(errors))}
    for t in range(2)
  ]
  (folder / 'metrics.jsonl').write_text(
    '\n'.join(map(json.dumps, lines)) + '\n'
  )
  results = [
    _result('trained', f'module_{i}', 'speaker', 1 - error)
    for i, error in enumerate(errors)
  ]
  if untrained is not None:
    results += [
      _result('untrained', f'module_{i}', 'speaker', 1 - untrained)
      for i in range(len(errors))
    ]
  results += [
    _result('trained', f'module_{i}', 'digit', 0.25, 0.35)
    for i in range(len(errors))
  ]
  results.append(_result('raw', 'samples', 'speaker', 0.25))
  probes = {
    'dataset': 'spoken_digit',
    'step': 20,
    'protocol': {'test_rows': 100},
    'chance': {'speaker': 0.2, 'digit': 0.1},
    'results': results,
  }
  (folder / 'evaluation').mkdir()
  (folder / 'evaluation/probes.json').write_text(json.dumps(probes))
  random = np.random.default_rng(seed)
  last = f'module_{len(errors) - 1}'
  arrays = {
    f'{kind}_{last}': random.normal(size=(20, 4))
    for kind in ('trained', 'untrained')
  }
  np.savez(
    folder / 'evaluation/features.npz',
    labels=np.arange(20) % 2,
    class_names=np.array(['ann', 'bob']),
    **arrays,
  )
  return runs.read(folder)


def test_runs_of_one_method_differ_in_their_seed_alone(tmp_path):
  a = _make_run(tmp_path / 'a', [0.5], seed=0)
  b = _make_run(tmp_path / 'b', [0.5], seed=1)
  c = _make_run(tmp_path / 'c', [0.5], negatives=16)
  d = _make_run(tmp_path / 'd', [0.5], title='CPC', stop_gradient_after=[])
  assert runs.methods([a, b]) == {'Greedy InfoMax': [a, b]}
  assert runs.methods([a, c, b, d]) == {
    'Greedy InfoMax (negatives 10)': [a, b],
    'Greedy InfoMax (negatives 16)': [c],
    'CPC': [d],
  }
  # Too many differences for a name: the run's own.
  e = _make_run(tmp_path / 'e', [0.5], negatives=16, offsets=5, window=32)
  assert list(runs.methods([a, e])) == [
    'Greedy InfoMax (a)',
    'Greedy InfoMax (e)',
  ]
  # Without run.json: the module of the method's options.
  assert a._replace(info={}).title == 'gim'


def test_points_by_hand(tmp_path):
  measured = depth.points(
    [
      _make_run(tmp_path / 'a', [0.5, 0.1], seed=0, untrained=0.75),
      _make_run(tmp_path / 'b', [0.5, 0.3], seed=1, untrained=0.65),
      # Starts as the first does: the untrained encoder counts once.
      _make_run(
        tmp_path / 'c',
        [0.6, 0.0],
        untrained=0.75,
        title='CPC',
        stop_gradient_after=[],
      ),
    ],
    'speaker',
  )
  # Of 10 and 30 the standard deviation is sqrt(200), of 75 and 65 sqrt(50).
  expected = [
    ('Greedy InfoMax', 'module_0', 50, 50, 50, 0, 2),
    ('Greedy InfoMax', 'module_1', 20, 10, 30, 200**0.5, 2),
    ('CPC', 'module_0', 60, 60, 60, math.nan, 1),
    ('CPC', 'module_1', 0, 0, 0, math.nan, 1),
    ('untrained', 'module_0', 70, 65, 75, 50**0.5, 2),
    ('untrained', 'module_1', 70, 65, 75, 50**0.5, 2),
  ]
  assert [p[:2] for p in measured] == [row[:2] for row in expected]
  np.testing.assert_allclose(
    [p[2:] for p in measured], [row[2:] for row in expected], atol=1e-12
  )


def test_untrained_encoders_that_differ_are_other_lines(tmp_path):
  a = _make_run(tmp_path / 'a', [0.5], untrained=0.75)
  b = _make_run(
    tmp_path / 'b', [0.5], untrained=0.5, title='CPC', stop_gradient_after=[]
  )
  # Begins as the first, and has a module more.
  c = _make_run(
    tmp_path / 'c',
    [0.5, 0.5],
    untrained=0.75,
    title='longer',
    stop_gradient_after=[0],
  )

  def names(*runs):
    points = depth.points(runs, 'speaker')
    return [(p.method, p.feature) for p in points if 'untrained' in p.method]

  assert names(a, b) == [
    ('untrained, Greedy InfoMax', 'module_0'),
    ('untrained, CPC', 'module_0'),
  ]
  assert names(a, c) == [('untrained', 'module_0'), ('untrained', 'module_1')]


def _draw(picture, folder):
  paths = figures.save(picture, folder)
  with open(paths['csv'], newline='') as file:
    rows = list(csv.reader(file))
  return rows, image_lib.imread(paths['png'])


def test_depth(tmp_path):
  picture = depth.depth(
    [
      _make_run(tmp_path / 'a', [0.5, 0.25], seed=0),
      _make_run(tmp_path / 'b', [0.5, 0.0], seed=1),
      _make_run(
        tmp_path / 'c', [0.5, 0.0], title='CPC', stop_gradient_after=[]
      ),
    ],
    'speaker',
  )
  rows, image = _draw(picture, tmp_path)
  assert rows == [
    ['method', 'feature', 'mean', 'least', 'greatest', 'std', 'n'],
    ['Greedy InfoMax', 'module_0', '50.0', '50.0', '50.0', '0.0', '2'],
    ['Greedy InfoMax', 'module_1', '12.5', '0.0', '25.0',
     str(np.std([0, 25], ddof=1)), '2'],
    ['CPC', 'module_0', '50.0', '50.0', '50.0', 'nan', '1'],
    ['CPC', 'module_1', '0.0', '0.0', '0.0', 'nan', '1'],
    ['untrained', 'module_0', '50.0', '50.0', '50.0', '0.0', '2'],
    ['untrained', 'module_1', '50.0', '50.0', '50.0', '0.0', '2'],
    ['commonest label', '', '80.0', '', '', '', ''],
    ['raw samples', '', '75.0', '', '', '', ''],
  ]  # fmt: skip
  assert image.std() > 0
  assert 'Bars: least and greatest' in picture.caption
  assert 'CPC: 0.000 % at module_1' in picture.alt


def test_depth_of_what_is_not_finite(tmp_path):
  run = _make_run(tmp_path / 'a', [0.5, 0.25], untrained=None)
  for r in run.probes['results']:
    r['mean'] = None
  picture = depth.depth([run], 'speaker')
  _draw(picture, tmp_path)
  assert 'not finite is left out' in picture.caption
  assert 'not clearly above' in probes.warnings(run)[0]


def test_numbers_of_other_protocols_are_named(tmp_path):
  a = _make_run(tmp_path / 'a', [0.5])
  b = _make_run(tmp_path / 'b', [0.5], seed=1)
  for r in b.probes['results']:
    r['protocol_hash'] = 'other'
  (fold,) = probes.section([a, b])
  texts = [part.text for part in fold.parts if part.kind == 'note']
  assert (
    'The linear numbers come from different protocols: they do not compare.'
  ) in texts


def test_table(tmp_path):
  table = depth.table(
    [
      _make_run(tmp_path / 'a', [0.5, 0.1], seed=0),
      _make_run(tmp_path / 'b', [0.5, 0.3], seed=1),
      _make_run(tmp_path / 'c', [0.4], title='CPC', stop_gradient_after=[]),
    ],
    'speaker',
  )
  assert table.header == ['probe', 'method', 'n', 'module_0', 'module_1']
  # Of 10 and 30: 20, deviation 14.14.
  assert table.rows == [
    ['linear', 'Greedy InfoMax', '2', '50.0\xa0±\xa00.0', '20.0\xa0±\xa014.1'],
    ['linear', 'CPC', '1', '40.0', '–'],
    ['linear', 'untrained', '2', '50.0\xa0±\xa00.0', '50.0\xa0±\xa00.0'],
  ]


# Standard errors at 100 test examples: of 50 % 5 points, of 41 % 4.9, of 76 %
# 4.3, of 75 % 4.3, of 20 % 4.
@pytest.mark.parametrize(
  ('errors', 'text'),
  [
    ([0.5, 0.41], None),
    # 76 - 68 is less than 4.3 + 4.7, 76 - 20 is more.
    ([0.68, 0.2], 'untrained at module_0; raw samples at module_0'),
    ([0.2, 0.78], 'at module_1; raw samples at module_1; chance level at mod'),
  ],
)
def test_warnings_name_what_needs_no_training(tmp_path, errors, text):
  run = _make_run(tmp_path / 'run', errors, untrained=0.76)
  sentences = [s for s in probes.warnings(run) if 'speaker' in s]
  assert len(sentences) == (text is not None)
  assert text is None or text in sentences[0]


def test_losses_no_better_than_chance_are_named(tmp_path):
  run = _make_run(tmp_path / 'run', [0.5, 0.5], losses=(3.0, 2.5))
  assert curves.warnings(run) == [
    'module_0/infonce ends at 2.50 nats of 2.50, no better than chance level.'
  ]


def test_mean_line_is_of_common_steps():
  a = figures.Line('a', [1, 2, 3], [1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
  b = figures.Line('b', [2, 3, 4], [4.0, 5.0, 6.0], [6.0, 6.0, 6.0])
  assert curves.mean_line([a, b], 'both') == figures.Line(
    'both', [2, 3], [3.0, 4.0], [5.0, 5.0]
  )


def test_facts(tmp_path):
  run = _make_run(tmp_path / 'run', [0.5], patch_size=8, patch_stride=4)
  facts = dict(summary.facts(run))
  assert facts['Method'] == 'Greedy InfoMax'
  assert (
    facts['Inputs'] == '2,048 samples; predictions within at most 64 frames'
  )
  assert facts['Parameters'] == '16 (module_0 7, module_1 9)'
  run.config['input_shape'] = [32, 40, 3]
  # (32 - 8) / 4 + 1 = 7, (40 - 8) / 4 + 1 = 9.
  facts = dict(summary.facts(run))
  assert facts['Inputs'] == '7 x 9 patches of 8 x 8, 4 pixels apart'


@pytest.fixture(scope='module')
def one_page(tmp_path_factory):
  run = _make_run(tmp_path_factory.mktemp('runs') / 'one', [0.5, 0.1])
  with open(page.write([run.path]), encoding='utf-8') as file:
    return run, file.read()


def test_page_of_a_run(one_page):
  run, text = one_page
  ids = [part.split('"')[0] for part in text.split('<figure id="')[1:]]
  assert ids == [
    'module_infonce', 'module_accuracy', 'probe', 'std', 'depth_speaker',
    'depth_digit', 'probes_speaker', 'probes_digit', 'pca_trained',
    'pca_untrained', 'tsne_trained', 'tsne_untrained', 'spectrum_module_1',
  ]  # fmt: skip
  for part in (
    '<h3>speaker</h3>',
    '<h3>digit</h3>',
    'Always the commonest speaker: 20.0 %.',
    'Always the commonest digit: 10.0 %.',
    '80 examples seen',
  ):
    assert part in text
  assert 'test images' not in text and 'pixels' not in text
  lines = pathlib.Path(run.path, 'report/module_infonce.csv').read_text()
  assert lines.splitlines()[1:3] == [
    'module_0,10,2.0,2.0,2.5',
    'module_0,20,1.0,1.0,2.5',
  ]


def test_page_of_several_runs(tmp_path):
  paths = [
    _make_run(tmp_path / 'a', [0.5, 0.1], losses=(2.0, 1.0)).path,
    _make_run(tmp_path / 'b', [0.5, 0.3], losses=(3.0, 2.0), seed=1).path,
    _make_run(
      tmp_path / 'c', [0.5, 0.2], title='CPC', stop_gradient_after=[]
    ).path,
  ]
  with open(page.write(paths, tmp_path / 'out'), encoding='utf-8') as file:
    text = file.read()
  ids = [part.split('"')[0] for part in text.split('<figure id="')[1:]]
  assert ids == [
    'module_infonce', 'module_accuracy', 'probe', 'std', 'depth_speaker',
    'depth_digit', 'spectrum_module_1',
  ]  # fmt: skip
  # The last module's loss is half of the first's: (2/2 + 3/2) / 2.
  lines = (tmp_path / 'out/module_infonce.csv').read_text().splitlines()
  assert lines[1] == 'Greedy InfoMax,10,1.25,1.25,2.5'
  assert lines[3] == 'CPC,10,1.0,1.0,2.5'
  assert '<h3>Error in %: speaker</h3>' in text
  assert 'Greedy InfoMax: a, b.' in text
  assert '<summary>All probes of every run</summary>' in text
