"""Tests of the probes, against scikit-learn and against known answers."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dim_jax.evaluation import probes
from dim_jax.evaluation.probes import examples, knn, logistic

_QUICK = probes.Protocol(
  seeds=2,
  linear_l2=(1e-3, 1e-1),
  few_l2=(1e-2, 1.0),
  few_labels=3,
  few_draws=4,
  mlp_epochs=2,
  mlp_decay_epochs=(1,),
  mlp_units=8,
  svm_c=(1e-2,),
)

_FIT = jax.jit(
  functools.partial(
    logistic.fit_logistic, classes=3, iterations=500, tolerance=1e-6
  )
)


def _blobs(n=90, dimensions=6, classes=3, distance=6.0, seed=0):
  """Classes around their own centres, in random order, labels balanced."""
  random = np.random.default_rng(seed)
  centres = np.random.default_rng(9).normal(size=[classes, dimensions])
  labels = random.permutation(np.arange(n) % classes)
  noise = random.normal(size=[n, dimensions])
  rows = distance * centres[labels] + noise
  return probes.Examples(rows.astype(np.float32), labels)


def _objective(x, labels, weights, l2, kernel, bias):
  logits = (x @ kernel + bias).astype(np.float64)
  top = logits.max(axis=1, keepdims=True)
  log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
  losses = log_sum - logits[np.arange(len(x)), labels]
  penalty = 0.5 * l2 * np.sum(np.square(kernel, dtype=np.float64))
  return np.sum(weights * losses) / np.sum(weights) + penalty


@pytest.mark.parametrize('l2', [1e-3, 1e-1])
def test_logistic_regression_equals_scikit_learn(l2):
  train = _blobs(distance=0.7)
  weights = (np.arange(90) % 5 > 0).astype(np.float32)
  params, logits = _FIT(train.features, train.labels, weights, l2)
  kept = weights > 0
  reference = LogisticRegression(
    C=1 / (l2 * kept.sum()), tol=1e-9, max_iter=5000
  ).fit(train.features[kept].astype(np.float64), train.labels[kept])
  np.testing.assert_allclose(params['kernel'], reference.coef_.T, atol=2e-3)
  # A shift of all biases changes nothing.
  bias = np.asarray(params['bias'])
  expected = reference.intercept_
  np.testing.assert_allclose(
    bias - bias.mean(), expected - expected.mean(), atol=2e-3
  )
  ours = _objective(*train, weights, l2, np.asarray(params['kernel']), bias)
  theirs = _objective(*train, weights, l2, reference.coef_.T, expected)
  assert ours == pytest.approx(theirs, rel=1e-5)
  np.testing.assert_allclose(
    logits, train.features @ np.asarray(params['kernel']) + bias, atol=1e-4
  )


@pytest.mark.parametrize('selection', ['loss', 'accuracy'])
def test_linear_selects_on_its_own_validation_rows(selection):
  train, test = _blobs(distance=0.5), _blobs(distance=0.5, seed=1)
  protocol = dataclasses.replace(_QUICK, linear_selection=selection)
  result = probes.linear_probe(train, test, protocol)
  shift, scale = examples.standardisation(train.features)
  x = (train.features - shift) / scale
  for seed in range(2):
    mask = examples.validation_rows(90, 0.1, seed)
    assert mask.sum() == 9
    scores, machines = [], []
    for l2 in _QUICK.linear_l2:
      machine = LogisticRegression(C=1 / (l2 * 81), tol=1e-8, max_iter=5000)
      machine.fit(x[~mask], train.labels[~mask])
      machines.append(machine)
      if selection == 'accuracy':
        scores.append(machine.score(x[mask], train.labels[mask]))
      else:
        loss = log_loss(train.labels[mask], machine.predict_proba(x[mask]))
        scores.append(-loss)
    best = max(range(2), key=lambda i: (scores[i], i))
    assert result.chosen[seed] == _QUICK.linear_l2[best]
    expected = machines[best].score(
      (test.features - shift) / scale, test.labels
    )
    assert result.accuracies[seed] == pytest.approx(expected, abs=0.012)


def test_ties_go_to_the_larger_l2():
  protocol = dataclasses.replace(_QUICK, linear_selection='accuracy')
  result = probes.linear_probe(_blobs(), _blobs(seed=1), protocol)
  np.testing.assert_array_equal(result.chosen, [1e-1, 1e-1])


@pytest.mark.parametrize('name', ['linear', 'linear_few', 'knn', 'svm'])
def test_separable_classes_are_told_apart(name):
  result = probes.PROBES[name](_blobs(), _blobs(seed=1), _QUICK)
  np.testing.assert_array_equal(result.accuracies, 1.0)


@pytest.mark.parametrize('name', ['linear', 'linear_few', 'knn'])
def test_random_labels_give_chance(name):
  train = _blobs(distance=0.3)
  shuffled = np.random.default_rng(3).permutation(train.labels)
  test = _blobs(n=600, distance=0.3, seed=1)
  mixed = np.random.default_rng(4).permutation(test.labels)
  result = probes.PROBES[name](
    train._replace(labels=shuffled), test._replace(labels=mixed), _QUICK
  )
  # 600 rows: a standard deviation of 0.019 about 1/3.
  np.testing.assert_allclose(result.accuracies, 1 / 3, atol=0.08)


@pytest.mark.parametrize('name', list(probes.PROBES))
def test_test_labels_change_the_accuracy_alone(name):
  train, test = _blobs(distance=1.0), _blobs(distance=1.0, seed=1)
  other = test._replace(labels=(test.labels + 1) % 3)
  result = probes.PROBES[name](train, test, _QUICK)
  again = probes.PROBES[name](train, other, _QUICK)
  assert not np.array_equal(result.accuracies, again.accuracies)
  np.testing.assert_array_equal(result.predictions, again.predictions)
  jax.tree.map(np.testing.assert_array_equal, result.weights, again.weights)
  if result.chosen is not None:
    np.testing.assert_array_equal(result.chosen, again.chosen)


def test_draws_of_few_labels_are_balanced_and_differ():
  labels = np.random.default_rng(0).integers(0, 4, 200)
  draws = [examples.balanced_rows(labels, 5, draw) for draw in range(3)]
  for rows in draws:
    np.testing.assert_array_equal(np.bincount(labels[rows]), [5, 5, 5, 5])
    assert len(np.unique(rows)) == 20
  assert not np.array_equal(draws[0], draws[1])
  np.testing.assert_array_equal(draws[0], examples.balanced_rows(labels, 5, 0))
  with pytest.raises(
    ValueError, match=r'4 of 4 classes have fewer than .*= 100 '
  ):
    examples.balanced_rows(labels, 100, 0)


@pytest.mark.parametrize('dimensions', [4, 40])
def test_few_labels_equal_scikit_learn_on_the_draw(dimensions):
  # 40 dimensions are more than the 9 rows of a draw, 4 are fewer.
  train = _blobs(dimensions=dimensions, distance=0.6)
  test = _blobs(dimensions=dimensions, distance=0.6, seed=1)
  protocol = dataclasses.replace(_QUICK, few_l2=(0.1, 0.2))
  result = probes.linear_few_probe(train, test, protocol)
  shift, scale = examples.standardisation(train.features, 'overall')
  for draw, l2 in enumerate(result.chosen):
    rows = examples.balanced_rows(train.labels, 3, draw)
    reference = LogisticRegression(C=1 / (l2 * 9), tol=1e-9, max_iter=5000)
    reference.fit((train.features[rows] - shift) / scale, train.labels[rows])
    np.testing.assert_allclose(
      result.weights['kernel'][draw], reference.coef_.T, atol=2e-3
    )


def test_mlp_learns_what_no_line_divides():
  random = np.random.default_rng(0)

  def crossed(n):
    signs = random.choice([-1.0, 1.0], [n, 2])
    rows = signs + 0.15 * random.normal(size=[n, 2])
    labels = (signs[:, 0] * signs[:, 1] > 0).astype(np.int64)
    return probes.Examples(rows.astype(np.float32), labels)

  train, test = crossed(256), crossed(200)
  protocol = probes.Protocol(
    seeds=2,
    mlp_units=32,
    mlp_epochs=40,
    mlp_decay_epochs=(30,),
    mlp_learning_rate=1e-2,
    linear_l2=(1e-2, 1e-1),
  )
  fractions = []
  result = probes.mlp_probe(train, test, protocol, fractions.append)
  assert min(result.accuracies) >= 0.99
  assert max(probes.linear_probe(train, test, protocol).accuracies) < 0.8
  assert fractions[-1] == 1 and len(fractions) == 40
  kernels = result.weights['params']['Dense_0']['kernel']
  assert kernels.shape == (2, 2, 32)
  assert not np.array_equal(kernels[0], kernels[1])


def test_mlp_averages_its_last_epochs():
  train, test = _blobs(distance=1.0), _blobs(distance=1.0, seed=1)

  def accuracies(epochs, average):
    protocol = probes.Protocol(
      seeds=1,
      mlp_units=8,
      mlp_learning_rate=1e-2,
      mlp_epochs=epochs,
      mlp_decay_epochs=(),
      mlp_average_epochs=average,
    )
    return probes.mlp_probe(train, test, protocol).accuracies[0]

  expected = (accuracies(1, 1) + accuracies(2, 1)) / 2
  assert accuracies(2, 2) == pytest.approx(expected)
  assert accuracies(1, 1) != accuracies(2, 1)


def test_knn_equals_brute_force():
  train, test = _blobs(n=50, distance=0.8), _blobs(n=23, distance=0.8, seed=1)
  protocol = probes.Protocol(knn_neighbours=7, knn_temperature=0.2)
  result = probes.knn_probe(train, test, protocol)
  x, q = (
    part.features / np.linalg.norm(part.features, axis=1, keepdims=True)
    for part in (train, test)
  )
  expected = []
  for row in q @ x.T:
    nearest = np.argsort(-row)[:7]
    votes = np.zeros(3)
    for i in nearest:
      votes[train.labels[i]] += np.exp(row[i] / 0.2)
    expected.append(votes.argmax())
  np.testing.assert_array_equal(result.predictions[0], expected)
  assert result.accuracies.shape == (1,)


def test_knn_holds_votes_of_many_classes_in_bounded_memory(monkeypatch):
  rows = []

  def map_padded(function, batch_size, queries, progress):
    del function, progress
    rows.append(batch_size)
    return np.zeros(len(queries), np.int32)

  monkeypatch.setattr(knn.batches, 'map_padded', map_padded)
  labels = np.arange(300, dtype=np.int32)
  part = probes.Examples(np.ones([300, 2], np.float32), labels)
  probes.knn_probe(part, part, probes.Protocol())
  # A query has 200 neighbours, each with its class among 300.
  assert rows == [2**24 // (200 * 300)]


def test_standardisation_spares_dead_dimensions():
  features = np.zeros([4, 3], np.float32)
  features[:, 0] = [0, 2, 4, 6]
  features[0, 1] = 1e-6
  shift, scale = examples.standardisation(features)
  assert shift[0] == 3 and scale[0] == pytest.approx(np.sqrt(5))
  floor = 0.01 * np.sqrt(5 / 3)
  np.testing.assert_allclose(scale[1:], floor, rtol=1e-5)
  _, overall = examples.standardisation(features, 'overall')
  np.testing.assert_allclose(overall, 100 * floor, rtol=1e-5)
  _, scale = examples.standardisation(np.ones([4, 2], np.float32))
  np.testing.assert_allclose(scale, 0.01, rtol=1e-6)


def test_protocol_hash_follows_what_concerns_the_probe():
  default = probes.Protocol()
  longer = probes.Protocol(mlp_epochs=7)
  assert len(default.hash()) == 12
  assert default.hash() != longer.hash()
  assert default.hash('mlp') != longer.hash('mlp')
  assert default.hash('linear') == longer.hash('linear')
  rows = probes.DataSummary(train_rows=10)
  strict = probes.Protocol(linear_tolerance=1e-6)
  for name in probes.PROBES:
    assert default.hash(name, rows) != default.hash(name)
    differs = strict.hash(name) != default.hash(name)
    assert differs == name.startswith('linear')
  described = default.describe('linear')
  assert json.loads(json.dumps(described)) == described
  assert described['linear_l2'] == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
  assert 'validation rows' in described['fixed']['selection']
  assert 'linear_l2' not in default.describe('linear_few')
  assert not any(k.startswith('mlp_') for k in described)
  # The knn row of experiments/results/dim_digits.json.
  digits = probes.DataSummary(
    dataset='digits',
    note='resized from 8x8 to 32x32',
    train_split='train + validation',
    train_rows=1438,
    test_rows=359,
    image_size=32,
  )
  assert default.hash('knn', digits) == '4840398eb3f5'


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'seeds': 0}, 'seeds must be a whole number >= 1, got 0'),
    ({'validation': 1.0}, r'validation must be in \(0, 1\), got 1.0'),
    ({'linear_l2': (1.0, 0.1)}, 'linear_l2 must hold rising'),
    ({'mlp_epochs': 3, 'mlp_average_epochs': 4}, 'must not exceed'),
    ({'linear_selection': 'f1'}, "one of 'loss', 'accuracy', got 'f1'"),
    ({'few_scaling': 'rows'}, "one of 'dimension', 'overall', got 'rows'"),
    ({'knn_temperature': 0.0}, 'knn_temperature must be > 0'),
    ({'knn_temperature': float('nan')}, 'knn_temperature must be > 0, got nan'),
    ({'mlp_learning_rate': -1e-4}, 'mlp_learning_rate must be > 0'),
    ({'svm_tolerance': float('inf')}, 'svm_tolerance must be > 0, got inf'),
    ({'linear_l2': (0.0, 1.0)}, 'Each of linear_l2 must be > 0, got 0.0'),
    ({'linear_l2': ()}, 'linear_l2 must hold at least one'),
    ({'mlp_decay_epochs': (5, 5)}, 'mlp_decay_epochs must hold rising'),
    ({'max_examples': 0}, r'max_examples must be .*>= 1 or None, got 0'),
    ({'seeds': True}, 'seeds must be a whole number >= 1, got True'),
  ],
)
def test_protocol_refuses_what_cannot_be(fields, message):
  with pytest.raises(ValueError, match=message):
    probes.Protocol(**fields)


@pytest.mark.parametrize('name', list(probes.PROBES))
def test_bad_examples_are_refused(name):
  run, good = probes.PROBES[name], _blobs(n=30)
  labels, features = good.labels, good.features
  with pytest.raises(ValueError, match='30 rows of features, but labels'):
    run(good._replace(labels=labels[:5]), good, _QUICK)
  with pytest.raises(ValueError, match='6 dimensions, test features 5'):
    run(good, good._replace(features=features[:, :5]), _QUICK)
  with pytest.raises(ValueError, match=r'train labels must be integers.*float'):
    run(good._replace(labels=labels + 0.5), good, _QUICK)
  # 10 labels of each class: those of class 0 become -1.
  unknown = np.where(labels == 0, -1, labels)
  for parts in (
    (good._replace(labels=unknown), good),
    (good, good._replace(labels=unknown)),
  ):
    with pytest.raises(ValueError, match=r'10 of 30 .* below 0: .*unlabelled'):
      run(*parts, _QUICK)
  one_up = good._replace(labels=labels + 1)
  with pytest.raises(ValueError, match=r'All 60 labels are from 1 to 3, .*1.'):
    run(one_up, one_up, _QUICK)
  for wrong in (np.nan, np.inf, 1e39):
    broken = features.astype(np.float64)
    broken[[4, 7], 2] = wrong
    with pytest.raises(ValueError, match=r'2 of 30 train rows .* is row 4'):
      run(good._replace(features=broken), good, _QUICK)


def _with_a_rare_class():
  """Three classes of 30 rows, and one row of a fourth, far from them."""
  train, test = _blobs(), _blobs(seed=1)
  far = np.full([1, 6], 40, np.float32)
  return (
    probes.Examples(
      np.concatenate([train.features, far]), np.append(train.labels, 3)
    ),
    probes.Examples(
      np.concatenate([test.features, far]), np.append(test.labels, 3)
    ),
  )


@pytest.mark.parametrize('name', ['linear', 'knn', 'svm'])
def test_a_rare_class_costs_its_own_rows_at_most(name):
  train, test = _with_a_rare_class()
  # Some seeds fit the rare row and some hold it out.
  held_out = [examples.validation_rows(91, 0.1, s)[-1] for s in range(30)]
  assert any(held_out) and not all(held_out)
  protocol = dataclasses.replace(
    _QUICK,
    seeds=30 if name == 'svm' else 2,
    knn_neighbours=5,
  )
  result = probes.PROBES[name](train, test, protocol)
  assert result.accuracies.min() >= 90 / 91 - 1e-9
  if name == 'svm':
    assert result.weights['kernel'].shape == (30, 6, 4)
    # scikit-learn permutes the rows before it splits them.
    absent = np.isneginf(result.weights['bias'][:, 3])
    assert 0 < absent.sum() < 30
    # The weights give the predictions.
    shift, scale = examples.standardisation(train.features)
    scores = np.einsum(
      'nd,sdc->snc',
      (test.features - shift) / scale,
      result.weights['kernel'],
    )
    scores += result.weights['bias'][:, None]
    np.testing.assert_array_equal(scores.argmax(2), result.predictions)


def test_a_rare_class_has_too_few_labels_to_draw():
  train, test = _with_a_rare_class()
  with pytest.raises(
    ValueError,
    match=r'1 of 4 classes have fewer than few_labels = 3 .*class 3 only 1: '
    'lower few_labels to 1',
  ):
    probes.linear_few_probe(train, test, _QUICK)


def test_a_class_without_training_rows_counts_as_wrong():
  train, test = _with_a_rare_class()
  known = probes.Examples(train.features[:-1], train.labels[:-1])
  result = probes.knn_probe(known, test, _QUICK)
  np.testing.assert_allclose(result.accuracies, 90 / 91)


def test_svm_of_two_classes_has_a_kernel_of_both():
  train, test = _blobs(classes=2), _blobs(classes=2, seed=1)
  result = probes.svm_probe(train, test, _QUICK)
  kernel, bias = result.weights['kernel'], result.weights['bias']
  np.testing.assert_array_equal(kernel[..., 0], -kernel[..., 1])
  np.testing.assert_array_equal(bias[..., 0], -bias[..., 1])


def test_svm_needs_two_classes():
  train = _blobs(n=30)
  alone = train._replace(labels=np.append(np.zeros(29, int), 1))
  # The one row of class 1 is held out, or not drawn.
  protocol = dataclasses.replace(_QUICK, svm_max_examples=2)
  with pytest.raises(ValueError, match=r'are of class 0: .*two classes'):
    probes.svm_probe(alone, train, protocol)


def test_results_of_older_versions_get_the_names_of_today():
  old = {'features': 'trained', 'tap': 'y', 'probe': 'knn', 'mean': 0.5}
  expected = {'encoder': 'trained', 'feature': 'y', 'label': 'class'}
  expected |= {'probe': 'knn', 'mean': 0.5}
  assert probes.migrate_rows([old]) == [expected]
  of_today = expected | {'label': 'digit'}
  assert probes.migrate_rows([of_today]) == [of_today]
