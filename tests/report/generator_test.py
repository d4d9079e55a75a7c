"""Images of codes on the page, of runs beside one another."""

import json

import numpy as np

from dim_jax.report import page, runs
from dim_jax.report.sections import generator


def make_run(folder, offset, *, seed=0, samples=True, size=4):
  """A run whose reconstructions are off by `offset` gray levels."""
  (folder / 'evaluation').mkdir(parents=True)
  config = {'objective': {'type': 'a.method:Config'}, 'data': {'name': 'x'}}
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'run.json').write_text(json.dumps({'title': 'VAE'}))
  (folder / 'metrics.jsonl').write_text('')
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 200, (20, size, size, 1), dtype=np.uint8)
  arrays = {
    'images': images,
    'labels': np.zeros(20, np.int32),
    'reconstructions': images[:12] + np.uint8(offset),
    'interpolations': np.zeros((4, 8, size, size, 1), np.uint8),
  }
  if samples:
    arrays['samples'] = np.full((25, size, size, 1), offset, np.uint8)
  np.savez(folder / 'evaluation/features.npz', **arrays)
  return folder


def test_two_runs_are_compared_on_the_same_images(tmp_path):
  paths = [make_run(tmp_path / 'a', 51), make_run(tmp_path / 'b', 0)]
  html = page.write(paths, tmp_path / 'page')
  names = ('reconstructions', 'interpolations', 'samples')
  for name in names:
    assert (tmp_path / f'page/generator_{name}.png').exists()
  with open(html, encoding='utf-8') as file:
    text = file.read()
  # 51 of 127.5 is 0.4, squared 0.16.
  assert 'over 12 test images: a 0.1600, b 0.0000.' in text
  pictures = generator.section(runs.read_all(paths))
  blocks = [dict.fromkeys(row[0] for row in x.rows) for x in pictures]
  assert [list(x) for x in blocks] == [
    ['a', 'b'],
    ['a', 'b'],
    ['test images', 'a', 'b'],
  ]
  for picture, panels in zip(pictures, (1, 2, 3), strict=True):
    assert len(picture.figure().axes) == panels


def test_a_single_run_has_the_methods_name_and_may_lack_a_prior(tmp_path):
  run = runs.read(make_run(tmp_path / 'a', 5, samples=False))
  pictures = generator.section([run])
  assert [x.name for x in pictures] == [
    'generator_reconstructions',
    'generator_interpolations',
  ]
  assert {row[0] for row in pictures[0].rows} == {'VAE'}


def test_runs_of_other_images_have_pictures_of_their_own(tmp_path):
  paths = [
    make_run(tmp_path / 'a', 5, samples=False),
    make_run(tmp_path / 'b', 5, samples=False, seed=1),
    make_run(tmp_path / 'c', 5, samples=False, size=6),
  ]
  pictures = generator.section(runs.read_all(paths))
  assert len(pictures) == len({x.name for x in pictures}) == 6


def test_runs_without_any_show_nothing(tmp_path):
  path = make_run(tmp_path / 'a', 5)
  (path / 'evaluation/features.npz').unlink()
  assert generator.section([runs.read(path)]) == []
