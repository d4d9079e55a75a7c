"""Tests of the benchmark of sizes."""

import argparse
import sys

import jax
import pytest

from dim_jax.networks import encoders, greedy_modules
from dim_jax.objective import Objective
from experiments.benchmarks import sizes


def test_every_encoder_has_a_row():
  assert sizes.names() == (*encoders.ENCODERS, *greedy_modules.MODULES)
  assert set(sizes.QUICK['encoders']) <= set(sizes.names())


@pytest.mark.parametrize(
  'name',
  [
    'basic28',
    'foldmultialex64',
    'resnet50',
    'patch_small_cpc',
    'foldsmall32_cpc',
    'sound_small',
  ],
)
def test_cases_trace(name):
  objective, shape, dtype = sizes.case(name)
  kind = 'image' if dtype == 'uint8' else 'audio'
  batch = {kind: jax.ShapeDtypeStruct((4, *shape), dtype)}
  key = jax.random.key(0)
  variables = jax.eval_shape(objective.init, key, batch)
  loss, _ = jax.eval_shape(objective.loss, *variables, batch, key)
  assert loss.shape == ()


def _linear(name):
  """An objective of 3 * 8 * 8 weights, in place of a named one."""
  pixels = 3 * 8 * 8

  def init(rng, batch):
    return {'encoder': {'w': jax.random.normal(rng, (pixels,))}}, {}

  def loss(params, model_state, batch, rng):
    x = batch['image'].reshape(-1, pixels) / 255
    return ((x @ params['encoder']['w']) ** 2).mean(), ({}, model_state)

  return Objective(init, loss, lambda *_: {}), (8, 8, 3), 'uint8'


def test_a_row_is_measured(monkeypatch):
  monkeypatch.setattr(sizes, 'case', _linear)
  found = sizes.measure('linear', 4, steps=1, turns=2)
  low, high = found['range_s']
  assert 0 <= low <= found['step_s'] <= high
  assert found['examples_per_s'] > 0
  assert found['parameters'] == 192 and found['example'] == [8, 8, 3]
  # Float32 weights and Adam's two moments of them, two batches of four uint8
  # images, and their four indices of 4 bytes; and counters and a key.
  counted = 3 * 4 * 192 + 8 * 192 + 4 * 4
  assert counted < found['argument_bytes'] < counted + 200
  # The four images as floats.
  assert found['temporary_bytes'] >= 4 * 4 * 192
  assert found['peak_bytes'] >= found['start_bytes'] > 2**20


def _sleep(seconds):
  return [sys.executable, '-c', f'import time; time.sleep({seconds})']


def test_what_ends_a_row():
  assert sizes.row(_sleep(30), 0.3) == {'over_budget': 0.3}
  words = [sys.executable, '-c', 'raise MemoryError("no room")']
  assert sizes.row(words, 20) == {'error': 'status 1: MemoryError: no room'}
  words = [sys.executable, '-c', 'print("noise"); print(\'{"step_s": 1}\')']
  assert sizes.row(words, 20) == {'step_s': 1}


def test_rows_over_budget_are_kept(monkeypatch):
  asked = []

  def row(command, budget_s):
    name, size = command[4:6]
    asked.append((name, size))
    if size == '--batch_sizes=8':
      return {'examples_per_s': 2.0, 'peak_bytes': 2**20, 'device': 'x',
              'temporary_bytes': 2**21, 'versions': {'jax': '1'}}  # fmt: skip
    return {'over_budget': budget_s}

  monkeypatch.setattr(sizes, 'row', row)
  args = argparse.Namespace(
    encoders=('basic28', 'sound'),
    batch_sizes=(256, 8, 64),
    steps=1,
    turns=2,
    threads=1,
    budget_s=5.0,
  )
  found = sizes.table(args)
  # The row of 256 is told, but not tried.
  assert len(asked) == 4
  assert [row['batch_size'] for row in found['rows']] == 2 * [8, 64, 256]
  over = [row for row in found['rows'] if 'over_budget' in row]
  assert len(over) == 4
  assert [row.get('tried', True) for row in over] == 2 * [True, False]
  assert found['device'] == 'x' and found['versions'] == {'ours': {'jax': '1'}}
  lines = [sizes.line(row) for row in found['rows']]
  assert (
    lines[0].split()
    == ('basic28 8 2.0 examples/s 1 MiB at most 2 MiB of temporaries').split()
  )
  assert lines[1].endswith('over 5 s')
  assert lines[2].endswith('over 5 s, as a smaller batch was')


def test_unknown_names(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['sizes', '--encoders=basic99'])
  with pytest.raises(SystemExit):
    sizes.main()
  assert "no encoder 'basic99': there are basic28" in capsys.readouterr().err
