"""Tests of the attacks, against closed forms of linear classifiers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from dim_jax.evaluation import attacks
from dim_jax.evaluation.attacks import attack as attack_lib

KEY = jax.random.key(3)


def _pixels(images):
  """Images as rows of pixels in [0, 1]."""
  if images.dtype == jnp.uint8:
    images = images.astype(jnp.float32) / 127.5 - 1
  return (images.reshape(len(images), -1) + 1) / 2


def _linear(variables, images, rng):
  """Any number of classes, one sample."""
  return (_pixels(images) @ variables['w'] + variables['b'][None, :])[None]


def _binary(scale=1.0):
  """Two classes at w.u + b = 0: scores, images around grey, their labels."""
  random = np.random.default_rng(0)
  w = random.uniform(0.5, 1.5, [9]) * random.choice([-1, 1], [9])
  u = random.uniform(0.4, 0.6, [7, 9])
  b = -np.median(u @ w) + 0.01
  gap = u @ w + b
  variables = {
    'w': jnp.asarray(scale * np.stack([np.zeros(9), w], axis=1), jnp.float32),
    'b': jnp.asarray([0, scale * b], jnp.float32),
  }
  images = (2 * u - 1).reshape(7, 3, 3, 1).astype(np.float32)
  return variables, images, (gap > 0).astype(np.int32), w, gap


def _three(n=7, scale=1.0):
  """Three classes, random images as bytes, labelled by the classifier."""
  random = np.random.default_rng(1)
  images = random.integers(0, 256, [n, 2, 2, 2], np.uint8)
  w = random.normal(size=[8, 3])
  u = images.reshape(n, -1) / 255
  variables = {
    'w': jnp.asarray(scale * w, jnp.float32),
    'b': jnp.asarray(-scale * np.mean(u @ w, axis=0), jnp.float32),
  }
  labels = np.argmax(np.asarray(_linear(variables, images, KEY))[0], axis=1)
  return variables, images, labels


def _sampled(variables, images, rng):
  """A small network with a noisy code, four samples."""
  h = jnp.tanh(_pixels(images) @ variables['w'])
  noise = jax.random.normal(rng, (4, *h.shape))
  return jnp.tanh(h[None] + variables['noise'] * noise) @ variables['v']


def _noisy(noise):
  """Its variables, with 20 images as bytes."""
  random = np.random.default_rng(2)
  variables = {
    'w': jnp.asarray(random.normal(size=[8, 4]), jnp.float32),
    'v': jnp.asarray(3 * random.normal(size=[4, 3]), jnp.float32),
    'noise': jnp.float32(noise),
  }
  return variables, random.integers(0, 256, [20, 2, 2, 2], np.uint8)


_FGSM = functools.partial(attacks.fgsm, epsilon=0.5)
_PGD = functools.partial(attacks.pgd, steps=8, restarts=2)
_CW = functools.partial(
  attacks.carlini_wagner,
  steps=80,
  search_steps=6,
  learning_rate=0.05,
  initial_c=0.1,
)


@pytest.mark.parametrize('loss', attacks.LOSSES)
@pytest.mark.parametrize('attack', [attacks.fgsm, _PGD])
def test_linear_margin_falls_by_epsilon_times_the_l1_norm(attack, loss):
  variables, images, labels, w, gap = _binary()
  thresholds = np.abs(gap) / np.abs(w).sum()
  # No pixel meets the end of its range on the way.
  assert thresholds.max() < 0.2
  epsilon = 0.12
  result = attack(
    _linear, variables, images, labels, KEY, epsilon=epsilon, loss=loss
  )
  side = np.where(labels == 1, 1, -1)
  after = np.asarray(_linear(variables, result.images, KEY))[0]
  np.testing.assert_allclose(
    side * (after[:, 1] - after[:, 0]),
    np.abs(gap) - epsilon * np.abs(w).sum(),
    atol=1e-5,
  )
  for near in (0.99, 1.01):
    for i, threshold in enumerate(thresholds):
      result = attack(
        _linear, variables, images, labels, KEY, epsilon=near * threshold
      )
      assert bool(result.success[i]) == (near > 1)
      expected = thresholds < near * threshold
      np.testing.assert_array_equal(result.success, expected)
      np.testing.assert_array_equal(result.correct_after, ~expected)


def test_pgd_equals_fgsm_on_a_linear_classifier():
  variables, images, labels, _, _ = _binary()
  one, many = (
    attack(_linear, variables, images, labels, KEY, epsilon=0.05)
    for attack in (attacks.fgsm, _PGD)
  )
  np.testing.assert_allclose(one.images, many.images, atol=1e-6)
  np.testing.assert_allclose(many.linf, 0.05, atol=1e-6)
  np.testing.assert_allclose(many.l2, 0.05 * 3, atol=1e-6)
  np.testing.assert_array_equal(many.l0, 9)


def test_carlini_wagner_finds_the_distance_to_the_hyperplane():
  variables, images, labels, w, gap = _binary()
  result = attacks.carlini_wagner(
    _linear,
    variables,
    images,
    labels,
    KEY,
    steps=150,
    search_steps=7,
    initial_c=0.1,
  )
  assert result.success.all()
  distance = np.abs(gap) / np.linalg.norm(w)
  np.testing.assert_array_less(0.999 * distance, result.l2)
  np.testing.assert_allclose(result.l2, distance, rtol=0.03, atol=5e-4)


def test_confidence_moves_the_hyperplane():
  variables, images, labels, w, gap = _binary()
  result = _CW(_linear, variables, images, labels, KEY, confidence=0.5)
  expected = (np.abs(gap) + 0.5) / np.linalg.norm(w)
  assert result.success.all()
  np.testing.assert_allclose(result.l2, expected, rtol=0.05)


def test_carlini_wagner_follows_averaged_probabilities():
  # One sample is very sure of class 0, three lean to class 1: averaged logits
  # say 0 while averaged probabilities say 1, the label. An attack on averaged
  # logits alone would find nothing to do.
  offsets = np.array([3.0, 3, 3, -30])

  def logits(variables, images, rng):
    gap = 8 * jnp.mean(_pixels(images), axis=1) - 4
    gap = gap[None, :] + jnp.asarray(offsets, jnp.float32)[:, None]
    return jnp.stack([jnp.zeros_like(gap), gap], axis=2)

  images = np.zeros([1, 2, 2, 1], np.float32)
  result = _CW(logits, {}, images, np.array([1]), KEY)
  assert result.correct_before.all() and result.success.all()

  def gap(t):
    return np.mean(1 / (1 + np.exp(-(t + offsets)))) - 0.5

  # The gap changes by 8 times the mean change of 4 pixels, 4 times its norm.
  distance = -optimize.brentq(gap, -5, 5) / 4
  assert float(result.l2[0]) == pytest.approx(distance, rel=0.05)


def test_gradient_through_samples_is_the_mean_of_theirs():
  variables, images = _noisy(0.7)
  images = (images[:3] / 127.5 - 1).astype(np.float32)
  labels = np.array([0, 1, 2])
  scores = np.asarray(_sampled(variables, images, KEY))
  p = np.exp(scores - scores.max(axis=2, keepdims=True))
  p /= p.sum(axis=2, keepdims=True)
  expected = {'margin': [], 'cross_entropy': []}
  # d logits / d images of each sample.
  slopes = np.asarray(
    jax.jit(jax.jacobian(lambda x: _sampled(variables, x, KEY)))(images)
  )
  for n, label in enumerate(labels):
    others = np.where(np.arange(3) == label, -np.inf, scores[:, n].mean(0))
    rival = int(np.argmax(others))
    expected['margin'].append(
      np.mean(
        [each[n, rival, n] - each[n, label, n] for each in slopes], axis=0
      )
    )
    # dp = p (d own logit - sum of p d logit).
    changes = [
      q[n, label]
      * (each[n, label, n] - np.tensordot(q[n], each[n, :, n], axes=1))
      for q, each in zip(p, slopes, strict=True)
    ]
    expected['cross_entropy'].append(
      -np.mean(changes, axis=0) / p[:, n, label].mean()
    )
  for loss, values in expected.items():
    problem = attack_lib.prepare(_sampled, variables, images, labels, KEY, loss)
    gradient = problem.gradient(problem.images, KEY)
    np.testing.assert_allclose(gradient, values, rtol=1e-4, atol=1e-6)


def test_each_step_draws_fresh_noise():
  seen = []

  def logits(variables, images, rng):
    jax.debug.callback(
      lambda data: seen.append(tuple(np.ravel(data))), jax.random.key_data(rng)
    )
    noise = 0.01 * jax.random.normal(rng, (2, 1, 1))
    return _linear(variables, images, rng) + noise

  variables, images, labels = _three(2)
  rng = jax.random.key(11)
  attacks.pgd(
    logits, variables, images, labels, rng, epsilon=0.1, steps=3, restarts=2
  )
  jax.effects_barrier()
  evaluation_noise = tuple(
    np.ravel(jax.random.key_data(jax.random.split(rng)[0]))
  )
  others = [key for key in seen if key != evaluation_noise]
  # Six steps and the clean image's gradient, none with the evaluation noise.
  assert len(set(others)) == 7
  assert evaluation_noise in seen


def test_a_saturated_model_shows_no_gradient_and_still_breaks():
  variables, images, labels = _three()
  saturated, _, _ = _three(scale=1e4)
  epsilon = 0.4
  honest = attacks.fgsm(
    _linear, variables, images, labels, KEY, epsilon=epsilon
  )
  assert honest.success.all() and not honest.zero_gradients.any()

  blind = attacks.fgsm(_linear, saturated, images, labels, KEY, epsilon=epsilon)
  assert blind.zero_gradients.all() and blind.correct_after.all()
  np.testing.assert_array_equal(blind.linf, 0)
  row = attacks.summary(blind)
  assert row['accuracy'] == 100 and row['zero_gradients'] == 1

  seeing = attacks.fgsm(
    _linear, saturated, images, labels, KEY, epsilon=epsilon, loss='margin'
  )
  assert seeing.success.all() and not seeing.zero_gradients.any()
  # What was made on an honest model is the check without gradients.
  moved = attacks.replay(
    _linear, saturated, images, labels, KEY, adversarial=honest.images
  )
  assert moved.correct_before.all() and not moved.correct_after.any()


def _black_and_white(n=12):
  """Black and white images, apart at nine halves of brightness."""
  white = np.arange(n) % 2
  images = np.broadcast_to((255 * white)[:, None, None, None], (n, 3, 3, 1))
  variables = {
    'w': jnp.stack([jnp.zeros(9), jnp.ones(9)], axis=1),
    'b': jnp.array([0, -4.5]),
  }
  return variables, images.astype(np.uint8), white


def test_carlini_wagner_leaves_a_saturated_start():
  # All pixels at an end of their range, where tanh is flat. The nearest image
  # of the other class has all nine at 1/2: sqrt(9 / 4) away.
  variables, images, labels = _black_and_white()
  attack = functools.partial(
    attacks.carlini_wagner, _linear, variables, images, labels, KEY
  )
  attacked = attack(steps=100, search_steps=5)
  assert attacked.success.all() and not attacked.zero_gradients.any()
  np.testing.assert_allclose(attacked.l2, 1.5, rtol=0.02)
  # 100 steps of 0.01 bring w from 7.25 to 6.25, a pixel to 1 - 4e-6: the
  # network is no more robust, the attack is blind.
  blind = attack(steps=100, search_steps=5, learning_rate=0.01)
  assert not blind.success.any() and blind.zero_gradients.all()
  summary = attacks.summary(blind)
  assert summary['accuracy'] == 100 and summary['zero_gradients'] == 1
  robust = attacks.pgd(
    _linear, variables, images, labels, KEY, epsilon=0.51, steps=4
  )
  assert robust.success.all()


def test_replay_needs_no_gradient():
  def rounded(variables, images, rng):
    predictions = jnp.argmax(_linear(variables, images, rng), axis=-1)
    return jax.nn.one_hot(predictions, 3)

  variables, images, labels = _three(7)
  adversarial = attacks.fgsm(
    _linear, variables, images, labels, KEY, epsilon=0.4
  ).images
  half = np.concatenate([images[:3] / 127.5 - 1, adversarial[3:]])
  replayed = attacks.in_batches(
    attacks.replay,
    rounded,
    variables,
    images,
    labels,
    KEY,
    adversarial=half.astype(np.float32),
    batch_size=4,
  )
  expected = np.argmax(_linear(variables, half, KEY)[0], axis=1) == labels
  np.testing.assert_array_equal(replayed.correct_after, expected)
  assert replayed.zero_gradients.all() and replayed.success[3:].all()
  assert (replayed.linf[3:] > 0.39).all()


@pytest.mark.parametrize(
  'attack',
  [
    _FGSM,
    functools.partial(_PGD, epsilon=0.5, loss='margin'),
    _CW,
  ],
)
def test_targeted_attacks_reach_the_target(attack):
  variables, images, labels = _three()
  targets = (labels + 1) % 3
  result = attack(_linear, variables, images, labels, KEY, targets=targets)
  reached = np.argmax(_linear(variables, result.images, KEY)[0], axis=1)
  np.testing.assert_array_equal(result.success, reached == targets)
  np.testing.assert_array_equal(result.correct_after, reached == labels)
  # One step of FGSM may pass by a target between two others.
  assert result.success.sum() >= (6 if attack is _FGSM else 7)


def test_targeted_distance_is_that_of_the_convex_program():
  # Nearest pixels in [0, 1] where the target's score is the largest.
  variables, images, labels = _three()
  targets = np.asarray(attacks.random_targets(KEY, labels, 3))
  result = _CW(_linear, variables, images, labels, KEY, targets=targets)
  assert result.success.all()
  w, b = (np.asarray(variables[name], np.float64) for name in 'wb')
  for n, target in enumerate(targets):
    u = images[n].ravel() / 255
    lead = np.delete(w[:, [target]] - w, target, axis=1)
    offset = np.delete(b[target] - b, target)
    best = optimize.minimize(
      lambda v, u=u: np.sum((v - u) ** 2),
      np.full(8, 0.5),
      jac=lambda v, u=u: 2 * (v - u),
      bounds=[(0, 1)] * 8,
      constraints={
        'type': 'ineq',
        'fun': lambda v, lead=lead, offset=offset: v @ lead + offset,
      },
      method='SLSQP',
    )
    assert best.success
    assert float(result.l2[n]) == pytest.approx(np.sqrt(best.fun), rel=0.05)


@pytest.mark.parametrize(
  'attack',
  [
    functools.partial(attacks.fgsm, epsilon=0.3),
    functools.partial(_PGD, epsilon=0.3),
    _CW,
  ],
)
def test_images_stay_in_range_and_norms_are_measured(attack):
  variables, images = _noisy(0.7)
  images[:5] = images[:5] // 128 * 255
  labels = np.arange(20) % 3
  result = attack(_sampled, variables, images, labels, KEY)
  assert result.images.dtype == jnp.float32
  assert jnp.all(jnp.abs(result.images) <= 1)
  after = np.asarray(result.images, np.float64)
  change = np.abs((after + 1) / 2 - images / 255)
  np.testing.assert_allclose(result.linf, change.max((1, 2, 3)), atol=1e-6)
  np.testing.assert_allclose(
    result.l2, np.sqrt(np.sum(change**2, (1, 2, 3))), rtol=1e-5, atol=1e-6
  )
  moved = (change > 0.5 / 255).any(axis=3)
  np.testing.assert_array_equal(result.l0, moved.sum((1, 2)))
  if attack is not _CW:
    assert (result.linf <= 0.3 + 1e-6).all()
  # Success can be computed again, by hand, from the evaluation noise.
  evaluation_noise = jax.random.split(KEY)[0]
  scores = np.asarray(
    _sampled(variables, result.images, evaluation_noise), np.float64
  )
  p = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
  np.testing.assert_array_equal(
    result.success, p.mean(axis=0).argmax(axis=1) != labels
  )
  # An attack never repairs a prediction.
  assert not np.any(~result.correct_before & result.correct_after)


@pytest.mark.parametrize('attack', [attacks.fgsm, _PGD])
@pytest.mark.parametrize('loss', attacks.LOSSES)
def test_epsilon_of_zero_is_the_clean_accuracy(attack, loss):
  # Noise enough that two draws disagree about some examples.
  variables, images = _noisy(2.0)
  labels = np.arange(20) % 3
  result = attack(
    _sampled, variables, images, labels, KEY, epsilon=0.0, loss=loss
  )
  np.testing.assert_array_equal(
    result.images, images.astype(np.float32) / 127.5 - 1
  )
  np.testing.assert_array_equal(result.correct_before, result.correct_after)
  np.testing.assert_array_equal(result.success, ~result.correct_before)
  np.testing.assert_array_equal(result.linf, 0)
  p = jax.nn.softmax(_sampled(variables, images, jax.random.split(KEY)[0]))
  np.testing.assert_array_equal(
    result.correct_after, jnp.argmax(p.mean(axis=0), axis=1) == labels
  )
  other = jax.nn.softmax(_sampled(variables, images, KEY)).mean(axis=0)
  assert np.any(np.argmax(other, axis=1) != np.argmax(p.mean(0), axis=1))


def test_pgd_beats_fgsm_where_the_loss_bends():
  variables, images = _noisy(0.1)
  p = jax.nn.softmax(_sampled(variables, images, KEY)).mean(axis=0)
  labels = np.argmax(p, axis=1)
  one, many = (
    attack(_sampled, variables, images, labels, KEY, epsilon=0.25)
    for attack in (attacks.fgsm, _PGD)
  )
  assert not np.any(one.success & ~many.success)
  assert np.sum(many.success) > np.sum(one.success)


def test_what_was_wrong_before_is_left_alone():
  variables, images, labels, _, _ = _binary()
  wrong = 1 - labels
  result = _CW(_linear, variables, images, wrong, KEY)
  assert result.success.all() and not result.correct_before.any()
  np.testing.assert_array_equal(result.images, images)
  row = attacks.summary(result)
  assert row['accuracy'] == 0 and row['success'] is None and row['l2'] is None


def test_a_step_that_repairs_is_not_taken():
  # Class 1 within 0.1 of grey. From 0.45, a step of 0.3 leaps over it.
  def logits(variables, images, rng):
    gap = 1 - 10 * jnp.abs(_pixels(images)[:, 0] - 0.5)
    return jnp.stack([jnp.zeros_like(gap), gap], axis=1)[None]

  images = np.full([1, 1, 1, 1], 2 * 0.45 - 1, np.float32)
  labels = np.array([0])
  result = attacks.fgsm(logits, {}, images, labels, KEY, epsilon=0.3)
  assert result.success.all() and not result.correct_after.any()
  np.testing.assert_array_equal(result.images, images)
  leapt = attacks.replay(
    logits, {}, images, labels, KEY, adversarial=images + np.float32(0.6)
  )
  assert not leapt.correct_before.any() and leapt.correct_after.all()
  assert float(leapt.linf[0]) == pytest.approx(0.3)


def test_one_program_serves_every_strength_and_batch():
  traces = []

  def logits(variables, images, rng):
    traces.append(images.shape)
    return _linear(variables, images, rng)

  variables, images, labels = _three(7)
  for attack, settings in (
    (attacks.fgsm, [{'epsilon': 0.1}, {'epsilon': jnp.float32(0.2)}]),
    (_PGD, [{'epsilon': 0.1}, {'epsilon': 0.2, 'step_size': 0.1}]),
    (_CW, [{}, {'confidence': 0.1, 'learning_rate': 0.1, 'initial_c': 1.0}]),
  ):
    counts = []
    for chosen in settings:
      changed = jax.tree.map(lambda x: 1.5 * x, variables)
      for values in (variables, changed):
        attacks.in_batches(
          attack, logits, values, images, labels, KEY, batch_size=3, **chosen
        )
        counts.append(len(traces))
    assert len(set(counts)) == 1
  assert {shape[0] for shape in traces} == {3}


def test_attacks_can_be_traced():
  variables, images, labels = _three()
  given = images.astype(np.float32) / 127.5 - 1

  @jax.jit
  def attack(variables, images, labels, epsilon):
    return attacks.fgsm(
      _linear, variables, images, labels, KEY, epsilon=epsilon
    )

  expected = attacks.fgsm(_linear, variables, images, labels, KEY, epsilon=0.1)
  for each in (given, images):
    result = attack(variables, each, labels, 0.1)
    np.testing.assert_allclose(result.images, expected.images, atol=1e-6)


def test_batches_pad_and_drop_nothing():
  variables, images, labels = _three(7)
  done = []
  full = attacks.fgsm(_linear, variables, images, labels, KEY, epsilon=0.1)
  result = attacks.in_batches(
    attacks.fgsm,
    _linear,
    variables,
    images,
    labels,
    KEY,
    batch_size=3,
    progress=done.append,
    epsilon=0.1,
  )
  assert done == [3, 6, 7]
  for ours, theirs in zip(result, full, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
  targets = (labels + 1) % 3
  targeted = attacks.in_batches(
    _PGD,
    _linear,
    variables,
    images,
    labels,
    KEY,
    batch_size=4,
    targets=targets,
    epsilon=0.5,
  )
  assert targeted.success.all()


def test_summary_counts():
  attack = attacks.Attack(
    images=np.zeros([4, 1, 1, 1], np.float32),
    success=np.array([True, True, False, True]),
    correct_before=np.array([True, False, True, True]),
    correct_after=np.array([False, False, True, False]),
    l0=np.array([2.0, 0, 9, 4]),
    l2=np.array([0.5, 0, 9, 0.7]),
    linf=np.array([0.1, 0, 9, 0.3]),
    zero_gradients=np.array([False, False, True, False]),
  )
  row = attacks.summary(attack)
  assert json.loads(json.dumps(row)) == pytest.approx(
    {
      'examples': 4,
      'accuracy_before': 75,
      'accuracy': 25,
      'success': 200 / 3,
      'l0': 3,
      'l2': 0.6,
      'linf': 0.2,
      'zero_gradients': 0.25,
    }
  )


def test_not_finite_gradients_are_none():
  def logits(variables, images, rng):
    # The slope of the root is infinite at 0, and 0 * inf is NaN.
    total = jnp.sqrt(0 * jnp.sum(images, axis=(1, 2, 3)))
    return jnp.stack([total, jnp.zeros_like(total)], axis=1)[None]

  images = np.full([2, 2, 2, 1], 0.5, np.float32)
  result = attacks.fgsm(logits, {}, images, np.array([0, 0]), KEY, epsilon=0.1)
  assert result.zero_gradients.all()
  np.testing.assert_array_equal(result.images, images)


def test_random_targets_are_all_the_others():
  labels = np.repeat([0, 1, 2], 40)
  result = np.asarray(attacks.random_targets(KEY, labels, 3))
  pairs = set(zip(labels.tolist(), result.tolist(), strict=True))
  assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
  with pytest.raises(ValueError, match='classes must be a whole number >= 2'):
    attacks.random_targets(KEY, labels, 1)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'epsilon': -0.1}, r'epsilon must be in \[0, 1\].*-0.1'),
    ({'epsilon': 8}, r'epsilon must be in \[0, 1\].*8'),
    ({'epsilon': float('nan')}, 'epsilon'),
    ({'loss': 'hinge'}, "'margin'.*'hinge'"),
    (
      {'labels': np.array([0, 1, 3])},
      r'labels must be in 0\.\.2, got 3: 1 of 3 ',
    ),
    ({'labels': np.array([0, 1, -1])}, r'labels must be in 0\.\.2, got -1'),
    ({'labels': np.array([0, 1])}, r'labels must be integers of shape \(3,\)'),
    ({'labels': np.array([0.0, 1, 2])}, 'labels must be integers.*float64'),
    ({'targets': np.array([1, 1, 1])}, 'differ from its label; example 1'),
    ({'targets': np.array([1, 2, 9])}, r'targets must be in 0\.\.2, got 9'),
    ({'targets': np.array(1)}, r'targets must be integers of shape \(3,\)'),
    ({'images': np.zeros([0, 2, 2, 2], np.uint8)}, r'images.*\(0, 2, 2, 2\)'),
    ({'images': np.zeros([3, 8], np.uint8)}, r'images.*\(3, 8\)'),
    ({'images': np.zeros([3, 2, 2, 2], int)}, 'uint8, or float.*int64'),
    ({'images': np.full([3, 2, 2, 2], 255.0)}, r'in \[-1, 1\].*255'),
    ({'images': np.full([3, 2, 2, 2], np.nan)}, r'in \[-1, 1\].*24 of 24 are'),
    ({'logits': lambda v, x, k: _linear(v, x, k)[0]}, r'C >= 2.*\(3, 3\)'),
    ({'logits': lambda v, x, k: _linear(v, x, k)[:, :2]}, r'\(1, 2, 3\)'),
    ({'logits': lambda v, x, k: _linear(v, x, k)[:, :, :1]}, r'\(1, 3, 1\)'),
    ({'logits': lambda v, x, k: _linear(v, x, k)[:0]}, r'\(0, 3, 3\)'),
    ({'steps': 0}, 'steps must be a whole number >= 1, got 0'),
    ({'restarts': 1.0}, r'restarts must be a whole number >= 1, got 1\.0'),
    ({'step_size': 0.0}, 'step_size must be > 0'),
  ],
)
def test_mistakes_are_named(changes, message):
  variables, images, labels = _three(3)
  labels = np.array([0, 1, 2])
  arguments = {
    'logits': _linear,
    'variables': variables,
    'images': images,
    'labels': labels,
    'rng': KEY,
    'epsilon': 0.1,
  }
  with pytest.raises(ValueError, match=message):
    attacks.pgd(**(arguments | changes))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'confidence': -1}, 'confidence must be >= 0'),
    ({'learning_rate': 0}, 'learning_rate must be > 0'),
    ({'initial_c': float('inf')}, 'initial_c must be > 0'),
    ({'search_steps': 0}, 'search_steps'),
    ({'steps': True}, 'steps'),
  ],
)
def test_carlini_wagner_names_mistakes(changes, message):
  variables, images, labels = _three(3)
  with pytest.raises(ValueError, match=message):
    attacks.carlini_wagner(_linear, variables, images, labels, KEY, **changes)


def test_helpers_name_mistakes():
  variables, images, labels = _three(3)
  run = functools.partial(
    attacks.in_batches, attacks.fgsm, _linear, variables, epsilon=0.1
  )
  with pytest.raises(ValueError, match='batch_size'):
    run(images, labels, KEY, batch_size=0)
  with pytest.raises(ValueError, match=r'images and labels.*\(2,\)'):
    run(images, labels[:2], KEY)
  with pytest.raises(ValueError, match='at least 1'):
    run(images[:0], labels[:0], KEY)
  with pytest.raises(ValueError, match='adversarial must have the shape'):
    attacks.replay(
      _linear, variables, images, labels, KEY, adversarial=images[:2]
    )
  empty = attacks.Attack(*[np.zeros([0])] * 8)
  with pytest.raises(ValueError, match='at least 1'):
    attacks.summary(empty)
