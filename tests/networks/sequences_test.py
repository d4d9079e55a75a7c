"""Encoders of lines, and the means of masks, against NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.networks import sequences

LINES = np.array([[2, 3, 4, 0, 0], [5, 2, 2, 3, 4]], np.int32)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize('dilation', [1, 2])
def test_a_gated_block_is_the_published_formula(dilation):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 3)).astype(np.float32)
  real = LINES > 0
  block = sequences.GatedBlock(dilation=dilation)
  variables = block.init(jax.random.key(0), x, real)
  kernel, bias = (
    np.asarray(variables['params']['conv'][name]) for name in ('kernel', 'bias')
  )
  # [3 characters of the window, D, 2 D]: the gates, then the values.
  kernel = kernel.reshape(3, 3, 6)
  expected = np.zeros_like(x)
  for n, t in np.ndindex(2, 5):
    total = bias.copy()
    for k in range(3):
      at = t + (k - 1) * dilation
      if 0 <= at < 5 and real[n, at]:
        total += x[n, at] @ kernel[k]
    gate = sigmoid(total[:3])
    own = x[n, t] if real[n, t] else 0
    expected[n, t] = own * (1 - gate) + total[3:] * gate
  found = block.apply(variables, x, real)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_attention_is_the_published_formula():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(2, 5, 4)).astype(np.float32)
  seen = LINES > 0
  block = sequences.AttentionBlock(heads=2)
  variables = block.init(jax.random.key(0), x, seen)
  p = jax.tree.map(np.asarray, variables['params'])

  def norm(z, name):
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(
      z.var(-1, keepdims=True) + 1e-5
    )
    return z * p[name]['scale'] + p[name]['bias']

  def linear(z, name):
    return z @ p[name]['kernel'] + p[name]['bias']

  projected = linear(norm(x, 'norm_0'), 'project')
  attended = np.zeros_like(x)
  for n, h in itertools.product(range(2), range(2)):
    q, k, v = (
      projected[n, :, 4 * i + 2 * h : 4 * i + 2 * h + 2] for i in range(3)
    )
    scores = np.where(seen[n][None], q @ k.T / np.sqrt(2), -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    attended[n, :, 2 * h : 2 * h + 2] = weights @ v
  y = x + linear(attended, 'output')
  hidden = linear(norm(y, 'norm_1'), 'hidden')
  expected = y + linear(np.asarray(jax.nn.gelu(hidden)), 'out')
  np.testing.assert_allclose(
    block.apply(variables, x, seen), expected, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('kind', sequences.ENCODERS)
def test_more_padding_changes_nothing(kind):
  encoder = sequences.LineEncoder(6, width=8, kind=kind, depth=2, length=9)
  variables = encoder.init(jax.random.key(0), LINES)
  found = encoder.apply(variables, LINES)
  wider = np.pad(LINES, ((0, 1), (0, 3)))
  wide = encoder.apply(variables, wider)
  np.testing.assert_allclose(wide[:2, :5], found, atol=1e-5)
  # A line of padding alone, as padded batches end in.
  assert np.isfinite(wide).all() and not np.any(wide[2])
  mean = sequences.mean_of(found, LINES)
  np.testing.assert_allclose(mean[0], found[0, :3].mean(0), atol=1e-6)
  np.testing.assert_allclose(mean[1], found[1].mean(0), atol=1e-6)


def test_a_line_too_long_for_attention_is_refused():
  encoder = sequences.LineEncoder(6, width=8, kind='attention', length=4)
  with pytest.raises(ValueError, match=r'5 places, and the encoder knows 4'):
    encoder.init(jax.random.key(0), LINES)


def all_masks(count):
  return np.array(list(itertools.product([False, True], repeat=count)))


@pytest.mark.parametrize('mode', ['token', 'rescale'])
def test_what_is_shown_at_use_is_the_mean_over_masks(mode):
  rng = np.random.default_rng(2)
  x, token = rng.normal(size=(1, 3, 4)), rng.normal(size=4)
  keep = 0.7
  # All masks of three characters, each as probable as independent ones are.
  masks = all_masks(3)
  chance = np.prod(np.where(masks, keep, 1 - keep), axis=1)
  mean = sum(
    p * np.asarray(sequences.shown(x, token, mask[None], mode, keep))
    for p, mask in zip(chance, masks, strict=True)
  )
  at_use = sequences.shown(x, token, None, mode, keep)
  np.testing.assert_allclose(at_use, mean, rtol=1e-5)
  naive = sequences.shown(x, token, None, mode, keep, consistent=False)
  np.testing.assert_array_equal(naive, x)
  if mode == 'token':
    np.testing.assert_allclose(at_use, 0.7 * x + 0.3 * token[None, None])


@pytest.mark.parametrize('keep', [0.85, 0.5, 0.2])
def test_each_character_is_visible_with_the_same_probability(keep):
  count = 20_000
  lines = np.zeros((count, 7), np.int32)
  lines[:, :5] = 2
  lines[: count // 2] = 2
  draws = jax.random.uniform(jax.random.key(0), (count, 8))
  order, hidden = map(np.asarray, sequences.hidden_order(draws, lines, keep))
  rank = np.argsort(order, axis=1)
  visible = rank >= hidden[:, None]
  for n, rows in ((7, slice(count // 2)), (5, slice(count // 2, count))):
    # (1 - p) n, rounded up or down.
    few = np.floor(n * (1 - keep) + 1e-9)
    assert set(hidden[rows]) <= {few, few + 1}
    assert hidden[rows].max() < n
    error = np.sqrt(keep * (1 - keep) / (count / 2))
    np.testing.assert_allclose(visible[rows, :n].mean(0), keep, atol=5 * error)
  # Padding is never hidden, and no more are than there is room for.
  assert visible[count // 2 :, 5:].all()
  assert hidden.max() <= sequences.most_hidden(7, keep)


def test_a_line_of_one_character_stays():
  lines = np.array([[3, 0, 0]], np.int32)
  draws = np.full((1, 4), 0.9, np.float32)
  assert sequences.hidden_order(draws, lines, 0.1)[1] == 0


def test_dropped_characters_have_no_effect_on_visible_ones():
  encoder = sequences.LineEncoder(
    9, width=8, kind='attention', depth=2, length=5, masked=True
  )
  variables = encoder.init(jax.random.key(0), LINES)
  visible = np.array([[True, False, True, True, True]] * 2)

  def run(lines, mode):
    return np.asarray(
      encoder.apply(variables, lines, visible=visible, mode=mode, keep=0.8)
    )

  other = LINES.copy()
  other[:, 1] = 8
  for mode in sequences.MODES:
    np.testing.assert_array_equal(run(LINES, mode), run(other, mode))
  # As if the place were not there: a token takes part, a dropped one does not.
  without = np.delete(LINES, 1, axis=1)
  places = np.asarray(variables['params']['places'])
  moved = {**variables['params'], 'places': jnp.delete(places, 1, axis=0)}
  shorter = sequences.LineEncoder(
    9, width=8, kind='attention', depth=2, length=4, masked=True
  )
  alone = shorter.apply({'params': moved}, without, mode='drop')
  np.testing.assert_allclose(
    np.delete(run(LINES, 'drop'), 1, axis=1), alone, atol=1e-5
  )
  assert np.abs(np.delete(run(LINES, 'token'), 1, axis=1) - alone).max() > 1e-3
