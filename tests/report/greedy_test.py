"""Runs of modules: methods told apart, errors by module, calm about gaps."""

import csv
import json
import math
import pathlib

import numpy as np
import pytest
from matplotlib import image as image_lib

from dim_jax.networks import greedy_modules
from dim_jax.report import figures, greedy, page, runs


def _result(features, tap, label, *values, probe='linear'):
  return {
    'features': features,
    'tap': tap,
    'label': label,
    'probe': probe,
    'mean': float(np.mean(values)),
    'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    'values': list(values),
    'protocol_hash': 'abc',
  }


def _make_run(
  folder, errors, *, seed=0, untrained=0.5, losses=(2.0, 1.0), **objective
):
  """A run on sound; errors (fractions) of 'speaker' by module."""
  folder.mkdir(parents=True)
  config = {
    'objective': {
      'type': 'dim_jax.objectives.gim:Config',
      'modules': 'sound_small',
      'walls': None,
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
  (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
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


@pytest.mark.parametrize(
  ('settings', 'name'),
  [
    ({}, 'Greedy InfoMax'),
    # A wall behind the last of three changes nothing, nor does its absence.
    ({'walls': [0, 1]}, 'Greedy InfoMax'),
    ({'walls': [0, 1, 2]}, 'Greedy InfoMax'),
    ({'walls': []}, 'CPC'),
    ({'walls': [2]}, 'CPC'),
    ({'walls': [1]}, 'InfoNCE, wall behind module_1'),
    ({'loss': 'supervised'}, 'greedy supervised'),
    ({'loss': 'supervised', 'walls': []}, 'supervised'),
    (
      {'loss': 'supervised', 'walls': [0]},
      'supervised, wall behind module_0',
    ),
    ({'frozen': 2}, 'Greedy InfoMax, one after another'),
    # Nothing passes out of frozen modules, so no gradient crosses a border.
    ({'frozen': 2, 'walls': []}, 'Greedy InfoMax, one after another'),
  ],
)
def test_method(tmp_path, settings, name):
  run = _make_run(tmp_path / 'run', [0.5, 0.25, 0.125], **settings)
  assert greedy.count(run) == 3
  assert greedy.method(run) == name


def test_contexts_are_those_of_the_networks():
  found = {
    name: (i, type(module).__name__)
    for name, make in greedy_modules.MODULES.items()
    for i, module in enumerate(make())
    if getattr(module, 'context', False)
  }
  assert found == greedy.CONTEXTS


def test_runs_of_one_method_differ_in_their_seed_alone(tmp_path):
  a = _make_run(tmp_path / 'a', [0.5], seed=0)
  b = _make_run(tmp_path / 'b', [0.5], seed=1)
  c = _make_run(tmp_path / 'c', [0.5], negatives=16)
  d = _make_run(tmp_path / 'd', [0.5], loss='supervised')
  assert greedy.methods([a, b]) == {'Greedy InfoMax': [a, b]}
  assert greedy.methods([a, c, b, d]) == {
    'Greedy InfoMax (negatives 10)': [a, b],
    'Greedy InfoMax (negatives 16)': [c],
    'greedy supervised': [d],
  }
  # Too many differences for a name: the run's own.
  e = _make_run(tmp_path / 'e', [0.5], negatives=16, offsets=5, window=32)
  assert list(greedy.methods([a, e])) == [
    'Greedy InfoMax (a)',
    'Greedy InfoMax (e)',
  ]


def test_points_by_hand(tmp_path):
  found = greedy.points(
    [
      _make_run(tmp_path / 'a', [0.5, 0.1], seed=0, untrained=0.75),
      _make_run(tmp_path / 'b', [0.5, 0.3], seed=1, untrained=0.65),
      # Starts as the first does: the untrained encoder counts once.
      _make_run(tmp_path / 'c', [0.6, 0.0], walls=[], untrained=0.75),
    ],
    'speaker',
  )
  # Standard error at 100 test examples: 100 sqrt(0.5 * 0.5 / 100) = 5; of 10
  # and 30 the deviation is sqrt(200), of 75 and 65 sqrt(50).
  expected = [
    ('Greedy InfoMax', 1, 'module_0', 50, 50, 50, 0, 2, 5),
    ('Greedy InfoMax', 2, 'module_1', 20, 10, 30, 200**0.5, 2, 200**0.5),
    ('CPC', 1, 'module_0', 60, 60, 60, math.nan, 1, 24**0.5),
    ('CPC', 2, 'module_1', 0, 0, 0, math.nan, 1, 0),
    ('untrained', 1, 'module_0', 70, 65, 75, 50**0.5, 2, 50**0.5),
    ('untrained', 2, 'module_1', 70, 65, 75, 50**0.5, 2, 50**0.5),
  ]
  assert [tuple(p)[:3] for p in found] == [row[:3] for row in expected]
  np.testing.assert_allclose(
    [p[3:] for p in found], [row[3:] for row in expected], atol=1e-12
  )


def test_untrained_encoders_of_other_modules_are_other_lines(tmp_path):
  a = _make_run(tmp_path / 'a', [0.5], untrained=0.75)
  b = _make_run(tmp_path / 'b', [0.5], untrained=0.5, modules='sound')
  # Begins as the first, and has a module more.
  c = _make_run(tmp_path / 'c', [0.5, 0.5], untrained=0.75, modules='longer')

  def names(*found):
    points = greedy.points(found, 'speaker')
    return [(p.method, p.tap) for p in points if 'untrained' in p.method]

  assert names(a, b) == [
    ('untrained (modules sound_small)', 'module_0'),
    ('untrained (modules sound)', 'module_0'),
  ]
  assert names(a, c) == [('untrained', 'module_0'), ('untrained', 'module_1')]


def _draw(picture, folder):
  paths = figures.save(picture, folder)
  with open(paths['csv'], newline='') as file:
    rows = list(csv.reader(file))
  return rows, image_lib.imread(paths['light']), image_lib.imread(paths['dark'])


def test_depth(tmp_path):
  picture = greedy.depth(
    [
      _make_run(tmp_path / 'a', [0.5, 0.25], seed=0),
      _make_run(tmp_path / 'b', [0.5, 0.0], seed=1),
      _make_run(tmp_path / 'c', [0.5, 0.0], walls=[]),
    ],
    'speaker',
  )
  rows, light, dark = _draw(picture, tmp_path)
  assert rows == [
    ['method', 'module', 'tap', 'error_percent', 'least_percent',
     'greatest_percent', 'std_percent', 'n'],
    ['Greedy InfoMax', '1', 'module_0', '50.0', '50.0', '50.0', '0.0', '2'],
    ['Greedy InfoMax', '2', 'module_1', '12.5', '0.0', '25.0',
     str(np.std([0, 25], ddof=1)), '2'],
    ['CPC', '1', 'module_0', '50.0', '50.0', '50.0', 'nan', '1'],
    ['CPC', '2', 'module_1', '0.0', '0.0', '0.0', 'nan', '1'],
    ['untrained', '1', 'module_0', '50.0', '50.0', '50.0', '0.0', '2'],
    ['untrained', '2', 'module_1', '50.0', '50.0', '50.0', '0.0', '2'],
    ['commonest label', '', '', '80.0', '', '', '', ''],
    ['raw samples', '', '', '75.0', '', '', '', ''],
  ]  # fmt: skip
  assert light.shape == dark.shape and (light != dark).any()
  # Half of one of 100 test examples is 0.5 %.
  assert (
    '▽: no error in the test set; drawn at 0.500 %, half a test example'
    in (picture.caption)
  )
  assert 'Bars that reach 0 end at 0.500 %' in picture.caption
  assert 'Greedy InfoMax 2, CPC 1, untrained 2.' in picture.caption
  assert 'CPC: 0.000 % at module_1' in picture.alt


def test_depth_of_what_is_not_finite(tmp_path):
  run = _make_run(tmp_path / 'a', [0.5, 0.25], untrained=None)
  for r in run.probes['results']:
    r['mean'] = None
  picture = greedy.depth([run], 'speaker')
  _draw(picture, tmp_path)
  assert 'not finite are left out' in picture.caption
  assert greedy.findings([run])[0] == (
    'Linear probe of speaker: the errors are not finite.'
  )


def test_depth_warns_of_what_does_not_compare(tmp_path):
  a = _make_run(tmp_path / 'a', [0.5])
  b = _make_run(tmp_path / 'b', [0.5], seed=1)
  for r in b.probes['results']:
    r['protocol_hash'] = 'other'
  b.probes['step'] = 10
  caption = greedy.depth([a, b], 'speaker').caption
  assert 'different protocols' in caption
  assert 'Runs of Greedy InfoMax were probed after 10 and 20 steps.' in caption


def test_depth_of_nothing(tmp_path):
  run = _make_run(tmp_path / 'a', [0.5])
  with pytest.raises(ValueError, match=r"labels \['speaker', 'digit'\]"):
    greedy.depth([run], 'phone')


def test_table(tmp_path):
  header, rows = greedy.table(
    [
      _make_run(tmp_path / 'a', [0.5, 0.1], seed=0),
      _make_run(tmp_path / 'b', [0.5, 0.3], seed=1),
      _make_run(tmp_path / 'c', [0.4], walls=[]),
    ],
    'speaker',
  )
  assert header == ['probe', 'method', 'n', 'module_0', 'module_1']
  # Of 10 and 30: 20, deviation 14.14.
  assert rows == [
    ['linear', 'Greedy InfoMax', '2', '50.0\xa0±\xa00.0', '20.0\xa0±\xa014.1'],
    ['linear', 'CPC', '1', '40.0', '–'],
    ['linear', 'untrained', '2', '50.0\xa0±\xa00.0', '50.0\xa0±\xa00.0'],
  ]


# Standard errors at 100 test examples: of 50 % 5 points, of 20 % 4, of 10 % 3,
# of 80 % 4.
@pytest.mark.parametrize(
  ('errors', 'text'),
  [
    (
      [0.5, 0.2, 0.1],
      'falls from 50.0 % (module_0) to 10.0 % (module_2), clearly lower than '
      'at any module before. Clearly lower than untrained at every module.',
    ),
    # 20 - 15 is less than 4 + 3.57.
    (
      [0.5, 0.2, 0.15],
      'falls from 50.0 % (module_0) to 20.0 % (module_1), and does not clearly '
      'fall after it: 15.0 % (module_2). Clearly lower than untrained at every',
    ),
    (
      [0.5, 0.1, 0.5],
      'falls from 50.0 % (module_0) to 10.0 % (module_1), and clearly rises '
      'again to 50.0 % (module_2). Clearly lower',
    ),
    (
      [0.2, 0.2, 0.8],
      'does not clearly fall after module_0: 20.0 % (module_0), 20.0 % '
      '(module_1), 80.0 % (module_2); it clearly rises to module_2. Clearly '
      'lower than untrained at module_0, module_1.',
    ),
    (
      [0.2, 0.9, 0.8],
      'Clearly lower than untrained at module_0, clearly higher at module_1. '
      'Clearly higher than raw samples at module_1.',
    ),
    (
      [0.2, 0.8, 0.02],
      'falls from 20.0 % (module_0) to 2.0 % (module_2)',
    ),
    ([0.2], 'error 20.0 % (module_0, the only module)'),
  ],
)
def test_findings(tmp_path, errors, text):
  run = _make_run(tmp_path / 'run', errors, untrained=0.76)
  found = [s.replace('\xa0', ' ') for s in greedy.findings([run])]
  assert found[0].startswith('Linear probe of speaker: error ')
  assert text in found[0]
  assert found[1].startswith('Linear probe of speaker, untrained: 76.0 % (')
  assert found[1].endswith('raw samples: 75.0 %.')
  assert found[-1] == (
    '“Clearly”: by more than the spreads over seeds or the standard errors of '
    '100 test examples together.'
  )


def test_findings_name_a_single_method_where_asked(tmp_path):
  run = _make_run(tmp_path / 'run', [0.5])
  assert greedy.findings([run], named=True)[0].startswith(
    'Linear probe of speaker, Greedy InfoMax (n = 1): error 50.0'
  )


def test_findings_of_methods(tmp_path):
  found = greedy.findings(
    [
      _make_run(tmp_path / 'a', [0.5, 0.1], seed=0),
      _make_run(tmp_path / 'b', [0.5, 0.1], seed=1),
      _make_run(tmp_path / 'c', [0.5, 0.4], walls=[]),
    ]
  )
  assert found[0].startswith(
    'Linear probe of speaker, Greedy InfoMax (n = 2): error falls from'
  )
  # 50 - 40 is no more than 5 + 4.9 by a hair; said as it is.
  assert found[1].startswith(
    'Linear probe of speaker, CPC (n = 1): error falls'
  )
  assert found[2].startswith('Linear probe of speaker, untrained (n = 2): 50.0')


def test_loss_findings(tmp_path):
  run = _make_run(tmp_path / 'run', [0.5, 0.5], losses=(3.0, 2.5))
  assert greedy.loss_findings(run) == [
    'InfoNCE ends at 2.50 (module_0), 1.25 (module_1) nats; a guess costs '
    '2.50. No better than a guess: module_0.'
  ]


def test_mean_line_is_of_common_steps():
  a = figures.Line('a', [1, 2, 3], [1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
  b = figures.Line('b', [2, 3, 4], [4.0, 5.0, 6.0], [6.0, 6.0, 6.0])
  assert greedy.mean_line([a, b], 'both') == figures.Line(
    'both', [2, 3], [3.0, 4.0], [5.0, 5.0]
  )


def test_summary_and_parameters(tmp_path):
  run = _make_run(tmp_path / 'run', [0.5, 0.25], walls=[])
  folder = tmp_path / 'run/checkpoints/20/state'
  folder.mkdir(parents=True)

  def leaf(*keys, shape):
    return {
      'key_metadata': [{'key': key, 'key_type': 2} for key in keys],
      'value_metadata': {'write_shape': shape},
    }

  leaves = [
    leaf('step', shape=[]),
    leaf('params', 'module_1', 'network', 'conv', 'kernel', shape=[2, 3]),
    leaf('params', 'module_1', 'network', 'conv', 'bias', shape=[3]),
    leaf('params', 'module_1', 'score', shape=[12, 3, 3]),
    leaf('params', 'probe', 'module_1', 'kernel', shape=[3, 5]),
    leaf('model_state', 'frozen', 'module_0', 'network', 'b', shape=[7]),
    leaf('opt_state', 'module_1', 'network', 'conv', 'bias', shape=[3]),
  ]
  (folder / '_METADATA').write_text(
    json.dumps({'tree_metadata': {str(i): v for i, v in enumerate(leaves)}})
  )
  assert greedy.parameters(run) == {
    'modules': {'module_0': 7, 'module_1': 9},
    'losses': 108,
  }
  rows = dict(greedy.summary(run))
  assert rows['Method'] == 'CPC (InfoNCE, 12 offsets, 10 negatives)'
  assert rows['Modules'] == 'sound_small: 2, no wall'
  assert rows['Window'] == '2,048 samples; predictions within at most 64 frames'
  assert rows['Parameters'].startswith('16 of the encoder (module_0 7, ')


def test_summary_of_images(tmp_path):
  run = _make_run(tmp_path / 'run', [0.5], patch_size=8, patch_stride=4)
  run.config['input_shape'] = [32, 40, 3]
  rows = dict(greedy.summary(run))
  # (32 - 8) / 4 + 1 = 7, (40 - 8) / 4 + 1 = 9.
  assert rows['Patches'] == '7 x 9 of 8 x 8 pixels, 4 pixels apart'
  assert rows['Modules'] == 'sound_small: 1, walls behind every module'
  assert 'Parameters' not in rows


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
    'walls behind every module',
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
    _make_run(tmp_path / 'c', [0.5, 0.2], walls=[]).path,
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
