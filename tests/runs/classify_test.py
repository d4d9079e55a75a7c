"""Runs and sweeps of classifiers, from the command to the files they write."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

import dim_jax
from dim_jax.commands import classify as classify_command
from dim_jax.config import (
  DataConfig,
  ExperimentConfig,
  OptimizerConfig,
  SweepConfig,
)
from dim_jax.evaluation import classification
from dim_jax.objectives import dim, vib
from dim_jax.runs import attack, classify, provenance, sweep, train
from dim_jax.training import metrics


def make_config(steps=40, **fields):
  fields = {'units': (16,), 'code': 2, 'beta': 1e-2} | fields
  return ExperimentConfig(
    objective=vib.Config(**fields),
    data=DataConfig(name='digits', image_size=8),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    average=0.9,
    batch_size=32,
    steps=steps,
    log_every=20,
    checkpoint_every=20,
  )


def change(**fields):
  return dataclasses.replace(make_config(), **fields)


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('vib'))
  train.train(make_config(), folder, devices=1, show_progress=False)
  return folder


@pytest.fixture(scope='module')
def deterministic_dir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('deterministic'))
  config = make_config(covariance='none')
  train.train(config, folder, devices=1, show_progress=False)
  return folder


def test_load_gives_the_average_or_the_last_parameters(run_dir):
  average = dim_jax.load(run_dir)
  last = dim_jax.load(run_dir, average=False)
  assert average.step == last.step == 40
  kernels = [
    np.asarray(x.variables[0]['decoder']['logits']['kernel'])
    for x in (average, last)
  ]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
  assert set(average(np.zeros((2, 8, 8, 1), np.uint8))) == {
    'fc',
    'y',
    'std',
    'logits',
  }


def test_a_run_is_measured(run_dir, deterministic_dir):
  report = classify.classify(
    run_dir,
    samples=3,
    attacks=('fgsm', 'pgd', 'cw'),
    losses=('margin',),
    epsilons=(0.0, 0.1),
    attacked=6,
    surrogate=deterministic_dir,
    cw_steps=2,
    cw_searches=1,
    ood=('noise', 'inverted'),
    show_progress=False,
  )
  with open(f'{run_dir}/evaluation/classification.json') as file:
    assert json.load(file) == report
  rows = {(r['weights'], r['split']): r for r in report['results']}
  assert set(rows) == {
    (weights, split)
    for weights in ('average', 'raw')
    for split in ('train', 'test')
  }
  assert rows['average', 'test']['examples'] == 359
  # Chance is 90 %.
  assert rows['average', 'test']['error_3'] < 70
  for row in rows.values():
    bits = row['label_entropy_bits'] - row['cross_entropy_bits']
    assert row['izy_bits'] == pytest.approx(bits)
  kinds = [(r['attack'], r['mode'], r['loss']) for r in report['attacks']]
  # Two attacks in two modes and strengths; targeted and untargeted CW in both
  # modes; and two strengths of transferred images.
  assert len(kinds) == 8 + 4 + 2
  assert kinds.count(('pgd', 'transfer', 'margin')) == 2
  for row in report['attacks']:
    if row['epsilon'] == 0.0:
      assert row['accuracy'] == row['accuracy_before']
  scores = {r['score'] for r in report['ood'] if r['dataset'] == 'noise'}
  assert scores == {
    'entropy',
    'max_prob',
    'mutual_information',
    'rate',
    'combined',
  }
  with np.load(f'{run_dir}/evaluation/classification.npz') as saved:
    assert saved['images'].shape == (359, 8, 8, 1)
    assert saved['rate_by_dimension'].shape == (2,)
    nats = saved['rate'].mean()
    np.testing.assert_allclose(
      nats / np.log(2), rows['average', 'test']['rate_bits'], rtol=1e-5
    )
    np.testing.assert_allclose(
      saved['rate_by_dimension'].sum(), nats, rtol=1e-4
    )
    np.testing.assert_allclose(
      saved['unit_rate'], saved['rate_by_dimension'], rtol=1e-4
    )
    means = saved['means']
    np.testing.assert_allclose(saved['unit_variance'], means.var(0), rtol=1e-4)
    units = report['units']
    assert units['active'] == (saved['unit_variance'] > 0.01).sum()
    assert units['capacity'] == pytest.approx(saved['unit_capacity'].sum())
    assert (units['units'], units['examples']) == (2, 359)
    assert saved['chols'].shape == (359, 2, 2)
    assert saved['entropy'].shape == (128, 128)
    assert 0 <= saved['entropy'].min() <= saved['entropy'].max() <= np.log(10)


def test_attacks_outlive_a_later_call_without_them(run_dir):
  options = {'samples': 2, 'show_progress': False}
  first = classify.classify(
    run_dir,
    attacks=('fgsm',),
    losses=('margin',),
    epsilons=(0.1,),
    attacked=4,
    **options,
  )
  later = classify.classify(run_dir, **options)
  assert later['attacks'] == first['attacks'] != []
  assert later['skipped'] == []
  # What was skipped is said until attacks are asked for again.
  beyond = classify.classify(
    run_dir, attacks=('fgsm',), epsilons=(1.5,), attacked=4, **options
  )
  assert beyond['attacks'] == first['attacks'] and beyond['skipped']
  again = classify.classify(run_dir, **options)
  assert again['skipped'] == beyond['skipped']
  again = classify.classify(
    run_dir, attacks=('fgsm',), epsilons=(0.2,), attacked=4, **options
  )
  # Others are added to those of before.
  kept = len(first['attacks'])
  assert again['attacks'][:kept] == first['attacks'] != again['attacks']
  assert {x['epsilon'] for x in again['attacks'][kept:]} == {0.2}
  assert again['skipped'] == []
  # Nor are those of another seed rows of the same table, unlike detection.
  other = classify.classify(
    run_dir,
    attacks=('fgsm',),
    epsilons=(0.3,),
    attacked=4,
    seed=5,
    ood=('noise',),
    **options,
  )
  assert {x['epsilon'] for x in other['attacks']} == {0.3}
  found = classify.classify(run_dir, ood=('inverted',), **options)
  assert {x['dataset'] for x in found['ood']} == {'noise', 'inverted'}
  assert found['attacks'] == other['attacks']
  # Those of another checkpoint do not.
  assert classify.classify(run_dir, step=20, **options)['attacks'] == []


def test_a_deterministic_run_has_one_error_and_no_rate(deterministic_dir):
  report = classify.classify(
    deterministic_dir, ood=('shuffled',), show_progress=False
  )
  assert report['units'] is None
  for row in report['results']:
    assert row['rate_bits'] is None
    assert row['samples'] == 1
    assert row['error_1'] == row['error_12'] == row['error_mean']
  assert {r['score'] for r in report['ood']} == {
    'entropy',
    'max_prob',
    'mutual_information',
  }
  classify.table(report)


def test_an_attack_that_fails_loses_nothing_else(run_dir, monkeypatch):
  def fail(*args, **options):
    raise ValueError('out of luck')

  monkeypatch.setattr(attack.attacks_lib, 'fgsm', fail)
  monkeypatch.setattr(provenance, 'command', lambda: 'python -m tools.classify')
  report = classify.classify(
    run_dir,
    samples=3,
    attacks=('fgsm', 'pgd'),
    losses=('margin',),
    epsilons=(0.1,),
    attacked=4,
    show_progress=False,
  )
  assert {row['attack'] for row in report['attacks']} == {'pgd'}
  assert [x['reason'] for x in report['skipped']] == ['out of luck'] * 2
  assert report['skipped'][0]['what'].startswith('fgsm samples margin')
  assert report['command'] == 'python -m tools.classify'
  assert report['hardware'] and report['seconds'] > 0
  shown = classify.summary(report)
  assert 'Skipped: fgsm mean' in shown[-1] or 'Skipped: fgsm mean' in shown[-2]


def test_a_rate_against_classes_reads_no_labels(tmp_path):
  run_dir = str(tmp_path)
  config = make_config(marginal='class', steps=20)
  train.train(config, run_dir, devices=1, show_progress=False)
  report = classify.classify(
    run_dir, samples=2, ood=('noise',), show_progress=False
  )
  with np.load(f'{run_dir}/evaluation/classification.npz') as saved:
    # The dimensions' KL from N(0, I) does not add up to this rate.
    assert 'rate_by_dimension' not in saved
    rate = saved['rate']
  trained = dim_jax.load(run_dir)
  test = classify.load(config.data, trained.objective, False)['test']
  functions = classify.measures(trained.objective, 2)
  predictions = classification.predict(
    *functions, trained.variables, test.inputs, jax.random.key(0)
  )
  np.testing.assert_allclose(predictions.rate, rate, rtol=1e-5)
  row = report['results'][1]
  assert (row['weights'], row['split']) == ('average', 'test')
  # An upper bound on I(Z; X), it is above the lower one on I(Z; Y).
  assert row['rate_bits'] > row['izy_bits'] > 0


def test_a_surrogate_that_does_not_fit_is_refused_at_first(
  run_dir, deterministic_dir, tmp_path, monkeypatch
):
  options = {'attacks': ('pgd',), 'show_progress': False}
  with pytest.raises(FileNotFoundError, match='is not a run'):
    classify.classify(run_dir, surrogate=str(tmp_path), **options)
  load = dim_jax.load

  def of_other_images(path, *args, **kwargs):
    loaded = load(path, *args, **kwargs)
    if path == deterministic_dir:
      loaded.input_shape = (9, 9, 1)
    return loaded

  monkeypatch.setattr(classify.dim_jax, 'load', of_other_images)
  with pytest.raises(ValueError, match=r'of shape \(9, 9, 1\) apart: accepted'):
    classify.classify(run_dir, surrogate=deterministic_dir, **options)


def test_a_run_starts_from_another_but_with_its_own_weight(
  run_dir, tmp_path, monkeypatch
):
  started_from = str(tmp_path / 'from')
  shutil.copytree(run_dir, started_from)
  config = make_config(steps=20, beta=0.5)
  config.init_from = started_from
  held = []
  describe = train.describe

  def described(*arguments):
    held.append(os.path.getsize(tmp_path / 'run' / 'lock') > 0)
    describe(*arguments)

  monkeypatch.setattr(train, 'describe', described)
  workdir = str(tmp_path / 'run')
  train.train(config, workdir, devices=1, show_progress=False)
  # The config is written by the process that trains, and by no other.
  assert held == [True]
  (line,) = metrics.read(f'{workdir}/metrics.jsonl')
  assert line['encoder/beta'] == 0.5
  # To go on it needs the other run no more.
  shutil.rmtree(started_from)
  config.steps = 40
  train.train(config, workdir, devices=1, show_progress=False)
  assert metrics.read(f'{workdir}/metrics.jsonl')[-1]['step'] == 40


def test_what_cannot_be_classified_is_refused(run_dir, tmp_path):
  with pytest.raises(ValueError, match=r"--attacks must be .*'pgdd'.*'pgd'"):
    classify.classify(run_dir, attacks=('pgdd',))
  with pytest.raises(ValueError, match='made by'):
    classify.classify(run_dir, surrogate=run_dir)
  with pytest.raises(ValueError, match='samples must be a whole number'):
    classify.classify(run_dir, samples=0)
  with pytest.raises(SystemExit, match='is not a run'):
    classify_command.main([str(tmp_path)])


def test_labels_beyond_the_classes_are_refused_before_training(tmp_path):
  config = make_config(num_classes=5)
  with pytest.raises(ValueError, match='labels up to 9, the objective 5'):
    train.train(config, str(tmp_path), show_progress=False)


def test_outliers_are_made_from_the_images():
  images = np.arange(24, dtype=np.uint8).reshape(2, 2, 3, 2)
  np.testing.assert_array_equal(
    attack.outliers('inverted', images), 255 - images
  )
  shuffled = attack.outliers('shuffled', images).reshape(2, 6, 2)
  for mine, original in zip(shuffled, images.reshape(2, 6, 2), strict=True):
    # Pixels move whole: with both of their channels.
    assert sorted(map(tuple, mine)) == sorted(map(tuple, original))
  assert attack.outliers('noise', images).shape == images.shape


@pytest.fixture
def lowered():
  """Names of the programs that are lowered, to be compiled."""
  names = []

  def listen(event, seconds, *, fun_name='', **_):
    if event == '/jax/core/compile/jaxpr_to_mlir_module_duration':
      names.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


def test_a_sweep_measures_every_price_and_seed_and_continues(tmp_path, lowered):
  def config(steps):
    return SweepConfig(run=make_config(steps), betas=(1e-3, 10.0), seeds=(0, 1))

  whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
  expected = sweep.sweep(config(40), whole, samples=3, show_progress=False)
  # Its memory is that of the very program that trains, compiled once.
  assert [name for name in lowered if 'chunk' in name] == ['jit(chunk)']
  sweep.sweep(config(20), parts, samples=3, show_progress=False)
  found = sweep.sweep(config(40), parts, samples=3, show_progress=False)
  assert found['rows'] == expected['rows']
  assert len(found['rows']) == 2 * 2 * 2
  assert found['memory_bytes'] > 0
  rates = {
    beta: [r['rate_bits'] for r in found['rows'] if r['beta'] == beta]
    for beta in (1e-3, 10.0)
  }
  assert max(rates[10.0]) < min(rates[1e-3]) / 3
  assert sweep.table(found).row_count == 2
  # A sweep of a version before some field goes on.
  path = os.path.join(parts, 'sweep_config.json')
  with open(path) as file:
    told = json.load(file)
  del told['run']['data']['stream'], told['run']['accumulate']
  with open(path, 'w') as file:
    json.dump(told, file)
  again = sweep.sweep(config(40), parts, samples=3, show_progress=False)
  assert again['rows'] == expected['rows']
  assert again['memory_bytes'] == found['memory_bytes']
  other = config(40)
  other.betas = (1e-3, 1.0)
  with pytest.raises(ValueError, match='holds another sweep'):
    sweep.sweep(other, parts, show_progress=False)
  with pytest.raises(ValueError, match='holds a run of 40 steps, more than'):
    sweep.sweep(config(20), parts, show_progress=False)
  with open(path) as file:
    assert json.load(file)['run']['steps'] == 40


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'betas': ()}, 'betas must have one value at least'),
    ({'betas': (-1.0,)}, r'betas\[0\] must be >= 0, got -1.0'),
    ({'run': make_config(num_classes=5)}, 'labels up to 9, the objective 5'),
    ({'run': change(data=DataConfig(flip=True))}, 'does not augment'),
    ({'run': change(data=DataConfig(stream=True))}, r'run.data.stream=True'),
    ({'run': change(data=DataConfig(labelled=0.1))}, 'data.labelled=0.1'),
    ({'run': change(init_from='runs/a')}, "run.init_from='runs/a'"),
    ({'run': change(parallel='pmap')}, "parallel is 'jit', got 'pmap'"),
    ({'run': make_config(covariance='none')}, 'whose rate it weighs'),
    ({'run': ExperimentConfig(objective=dim.Config())}, 'whose rate it weighs'),
  ],
)
def test_what_cannot_be_swept_is_refused(changes, message, tmp_path):
  fields = {'run': make_config(), 'betas': (0.1,)} | changes
  with pytest.raises(ValueError, match=message):
    sweep.sweep(SweepConfig(**fields), str(tmp_path))


def test_the_measures_of_a_run_are_those_of_its_objective(run_dir):
  encoder = dim_jax.load(run_dir)
  draw, mean, rate = classify.measures(encoder.objective, 4)
  images = np.zeros((3, 8, 8, 1), np.uint8)
  rng = jax.random.key(0)
  assert draw(encoder.variables, images, rng).shape == (4, 3, 10)
  assert mean(encoder.variables, images, rng).shape == (1, 3, 10)
  np.testing.assert_allclose(
    rate(encoder.variables, images, rng),
    encoder.objective.posterior(encoder.variables, {'image': images}).rate(),
    rtol=1e-6,
  )
