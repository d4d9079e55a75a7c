"""Counts, accuracy, information and recall, against counting by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.evaluation import characters

# Numbers 2 to 4 are characters, 0 padding, 1 unknown.
PAIRS = np.array(
  [
    [[2, 3, 0], [4, 3, 0]],
    [[2, 2, 4], [4, 3, 3]],
    [[3, 4, 0], [4, 3, 0]],
  ],
  np.int32,
)
FIRST, SECOND = PAIRS[:, 0], PAIRS[:, 1]
# Second lines hold 3 four times and 4 three times, of 7. With one added, of the
# four numbers that are no padding: 1, 1, 5 and 4 of 11.
UNIGRAM = np.array([0, 1, 1, 5, 4]) / 11


def test_the_unigram_is_what_counting_gives():
  q = characters.unigram(SECOND, 5)
  np.testing.assert_allclose(q, UNIGRAM)
  found = characters.of_unigram(q, SECOND)
  np.testing.assert_array_equal(found.answer, 3)
  result = characters.summary(found, SECOND)
  assert result['accuracy'] == pytest.approx(4 / 7)
  nats = -(4 * math.log(5 / 11) + 3 * math.log(4 / 11)) / 7
  assert result['nats'] == pytest.approx(nats)
  assert result['perplexity'] == pytest.approx(math.exp(nats))


def test_the_bigram_is_what_counting_gives():
  # Below 2: 4, 4 and 3. Below 3: 3 and 4. Below 4: 3 and 3.
  model = characters.bigram(PAIRS, PAIRS, 5)
  below = {2: {4: 2, 3: 1}, 3: {3: 1, 4: 1}, 4: {3: 2}}
  # The pairs that were counted want the least smoothing.
  k = model.weight
  assert k == min(characters.WEIGHTS)
  found = characters.of_bigram(model, FIRST, SECOND)
  for i, t in zip(*np.nonzero(SECOND), strict=True):
    a, b = FIRST[i, t], SECOND[i, t]
    total = sum(below[a].values())
    expected = (below[a].get(b, 0) + k * UNIGRAM[b]) / (total + k)
    assert found.log_q[i, t] == pytest.approx(math.log(expected))
  # 4 below 2 and 3 below 4; below 3 the unigram decides for 3.
  answers = {2: 4, 3: 3, 4: 3}
  for i, t in zip(*np.nonzero(SECOND), strict=True):
    assert found.answer[i, t] == answers[FIRST[i, t]]
  # Never padding or unknown, also where that is most frequent.
  model = model._replace(unigram=np.array([0, 0.9, 0.05, 0.03, 0.02]))
  assert (
    characters.of_bigram(model, np.array([[1]]), np.array([[1]])).answer == 2
  )


def test_the_weight_is_the_best_of_held_out_pairs():
  rng = np.random.default_rng(0)
  first = rng.integers(2, 12, (400, 3))
  second = np.where(rng.random((400, 3)) < 0.5, first, rng.integers(2, 12, 3))
  pairs = np.stack([first, second], 1).astype(np.int32)
  model = characters.bigram(pairs[:200], pairs[200:], 12)
  values = [
    characters.summary(
      characters.of_bigram(
        model._replace(weight=k), pairs[200:, 0], pairs[200:, 1]
      ),
      pairs[200:, 1],
    )['nats']
    for k in characters.WEIGHTS
  ]
  assert model.weight == characters.WEIGHTS[int(np.argmin(values))]


def test_a_summary_leaves_out_padding_and_counts_unknown_as_wrong():
  second = np.array([[2, 1, 0, 0], [3, 4, 2, 0]], np.int32)
  answer = np.array([[2, 1, 0, 2], [3, 2, 3, 2]], np.int32)
  log_q = np.log(np.array([[0.5, 1e-9, 7, 7], [0.25, 0.125, 0.5, 7]]))
  result = characters.summary(characters.Predictions(log_q, answer), second)
  # Right are 2 and 3, of five characters.
  assert result['accuracy'] == pytest.approx(2 / 5)
  # Of the four known ones: 1 + 2 + 3 + 1 bits.
  assert result['perplexity'] == pytest.approx(2 ** (7 / 4))


def test_a_model_is_read_at_the_characters_that_are_there():
  # Of all places alike: probabilities 0.5, 0.1, 0.1, 0.2 and 0.1.
  p = np.array([0.5, 0.1, 0.1, 0.2, 0.1])

  def tags(variables, batch):
    shape = (*batch['text'][:, 0].shape, 5)
    return jnp.broadcast_to(variables[None, None], shape)

  found = characters.of_model(
    tags, jnp.log(jnp.asarray(p)), PAIRS, batch_size=2
  )
  np.testing.assert_allclose(found.log_q, np.log(p[SECOND]), rtol=1e-5)
  # The most probable that is a character.
  np.testing.assert_array_equal(found.answer, 3)


def test_pointwise_information_is_the_logarithm_of_the_ratio():
  # At the first place the character is 2 or 3, as often; the model is sure.
  second = np.array([[2, 4], [3, 4]] * 60, np.int32)
  marginals = characters.place_marginals(second, 5, weight=0.0)
  np.testing.assert_allclose(marginals[2][0], [0, 0, 0.5, 0.5, 0])
  log_q = np.log(np.full(second.shape, 1.0))
  rows = characters.pointwise(
    characters.Predictions(log_q, second), second, marginals
  )
  assert [(r['length'], r['place'], r['lines']) for r in rows] == [
    (2, 1, 120), (2, 2, 120)
  ]  # fmt: skip
  # ln 2 of a choice of two, and nothing of what is always the same.
  assert rows[0]['nats'] == pytest.approx(math.log(2))
  assert rows[1]['nats'] == pytest.approx(0)
  assert not characters.pointwise(
    characters.Predictions(log_q, second), second, marginals, least=121
  )


def test_marginals_lean_on_the_unigram():
  second = np.array([[2, 3]], np.int32)
  found = characters.place_marginals(second, 4, weight=3.0)
  # The unigram: 1, 2 and 2 of 5 for the numbers 1, 2 and 3.
  q = np.array([0, 1, 2, 2]) / 5
  np.testing.assert_allclose(found[2][0], (np.eye(4)[2] + 3 * q) / 4)


def test_recall_of_known_scores():
  scores = np.array(
    [
      [3.0, 1.0, 2.0, 0.0],  # The right one is the first,
      [5.0, 4.0, 1.0, 0.0],  # the second,
      [1.0, 9.0, 0.5, 2.0],  # the last,
      [1.0, 0.0, 0.0, 1.0],  # and one of two that score as high: the second.
    ]
  )
  assert characters.recall(scores, (1, 2, 3, 4)) == {
    1: 1 / 4, 2: 3 / 4, 3: 3 / 4, 4: 1.0
  }  # fmt: skip
  # Scores that tell nothing find nothing.
  assert characters.recall(np.zeros((5, 5)), (1, 4)) == {1: 0.0, 4: 0.0}
