"""Measures of representations, and reconstructions, on the page."""

import json

import numpy as np
import pytest

from dim_jax.report import figures, page, runs
from dim_jax.report.parts import Table, Text
from dim_jax.report.sections import representation

_DECODED = {
  'squared_error': 0.0123,
  'multiscale_ssim': 0.75,
  'scales': 2,
  'dim_ssim': 0.875,
  'side': 32,
  'settings': {'channels': 16, 'epochs': 3, 'learning_rate': 0.01},
}


def _row(encoder, feature, measure, values, **more):
  row = {'encoder': encoder, 'feature': feature, 'measure': measure}
  return row | more | {'values': values}


def _rows(label='class'):
  return [
    _row('trained', 'y', 'svm', {'accuracy': 0.5}, label=label),
    _row('untrained', 'y', 'svm', {'accuracy': 0.25}, label=label),
    _row('trained', 'fc', 'svm', {'accuracy': 1.0}, label=label),
    _row('none', 'mean image', 'reconstruction', {'multiscale_ssim': 0.125}),
    _row('trained', 'y', 'reconstruction', _DECODED),
    _row(
      'trained',
      'y',
      'rank',
      {'rankme': 7.25, 'alpha_req': None, 'examples': 9, 'dimensions': 8},
    ),
    _row('untrained', 'y', 'lidar', {'lidar': 3, 'examples': 4, 'views': 2}),
  ]


def test_records_are_a_row_for_each_encoder_and_feature():
  rows = representation.records({'results': _rows()})
  y = {'feature': 'y', 'encoder': 'trained', 'SVM, %': '50.0'}
  assert rows == [
    {
      **y,
      'MS-SSIM': '0.750',
      "DIM's SSIM": '0.875',
      'MSE': '0.0123',
      'RankMe': '7.2',
      'alpha-ReQ': '–',
    },
    {**y, 'encoder': 'untrained', 'SVM, %': '25.0', 'LiDAR': '3.0'},
    {'feature': 'fc', 'encoder': 'trained', 'SVM, %': '100.0'},
    {
      'feature': 'mean image',
      'encoder': 'none',
      'MS-SSIM': '0.125',
      "DIM's SSIM": '–',
      'MSE': '–',
    },
  ]


def test_different_decoders_are_named():
  other = _DECODED | {'settings': _DECODED['settings'] | {'epochs': 4}}
  row = _row('trained', 'fc', 'reconstruction', other)
  notes = representation.notes({'results': [*_rows()[:5], row]})
  assert [note.rpartition('(')[2] for note in notes] == [
    'trained y).',
    'trained fc).',
  ]
  assert '3 epochs' in notes[0] and '4 epochs' in notes[1]


def test_labels_have_columns_of_their_own():
  rows = representation.records(
    {'results': [*_rows('speaker')[:2], *_rows('digit')[:1]]}
  )
  assert [{k: v for k, v in row.items() if '%' in k} for row in rows] == [
    {'speaker: SVM, %': '50.0', 'digit: SVM, %': '50.0'},
    {'speaker: SVM, %': '25.0'},
  ]


def test_section_of_a_run(tmp_path):
  folder = tmp_path / 'run'
  (folder / 'evaluation').mkdir(parents=True)
  config = {
    'objective': {'type': 'dim_jax.objectives.dim:Config'},
    'data': {'name': 'cifar10'},
    'input_shape': [4, 4, 1],
  }
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'metrics.jsonl').write_text('')
  paper = {'row': 'a', 'source': 's', 'columns': ['c'], 'rows': {'a': ['1']}}
  report = {'results': _rows(), 'published': paper, 'views': 'Flips.'}
  path = folder / 'evaluation' / 'representation.json'
  path.write_text(json.dumps(report))
  images = np.zeros((2, 4, 4, 1), np.uint8)
  np.savez(
    folder / 'evaluation' / 'representation.npz',
    **{'test images': images, 'trained y': images + np.uint8(51)},
    step=3,
  )
  table, *texts, published, picture = representation.section(
    [runs.read(folder)]
  )
  assert isinstance(table, Table) and len(table.records) == 4
  assert [text.text for text in texts if isinstance(text, Text)] == [
    'MS-SSIM: of test images of 32x32 pixels from a decoder with 16 channels '
    'at 4x4, 3 epochs, Adam 0.01; 2 of 5 scales fit.',
    'RankMe and alpha-ReQ: of 9 test examples.',
    'LiDAR: of 4 training images in 2 views each. Flips.',
  ]
  assert published.records == [{'model': 'a', 'c': '1'}]
  # 51 of 127.5 is 0.4, of each pixel.
  assert picture.rows == [
    ('trained y', 0, pytest.approx(0.16)),
    ('trained y', 1, pytest.approx(0.16)),
  ]
  with open(page.write([folder]), encoding='utf-8') as file:
    html = file.read()
  assert 'Representation' in html and 'is left out' not in html


def test_reconstructions_are_drawn_in_rows(tmp_path):
  images = np.zeros((3, 6, 6, 3), np.uint8)
  arrays = {'test images': images, 'a': images, 'b': images}
  picture = figures.reconstructions({**arrays, 'step': np.asarray(1)})
  axes = picture.figure().axes[0]
  assert [text.get_text() for text in axes.texts] == ['test images', 'a', 'b']
  assert len(axes.images) == 9
  with open(figures.save(picture, tmp_path)['csv']) as file:
    lines = file.read().splitlines()
  assert lines[:2] == ['features,image,squared error', 'a,0,0.0']
