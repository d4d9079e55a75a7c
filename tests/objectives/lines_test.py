"""The objectives of lines, against NumPy and against each other's parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax import config as config_lib
from dim_jax import random
from dim_jax.config import ExperimentConfig, OptimizerConfig, TextConfig
from dim_jax.networks import sequences
from dim_jax.objectives import lines, masked_lines, paired_lines, tagging
from dim_jax.training import step as step_lib
from tests import small

KEY = jax.random.wrap_key_data(small.KEY)
TINY = {'vocabulary': 9, 'width': 4, 'depth': 1, 'dropout': 0.0, 'length': 5}


def pairs(count=8):
  """Lines of 1 to 5 characters; some are not known."""
  rng = np.random.default_rng(0)
  text = rng.integers(1, 9, (count, 2, 5))
  ends = rng.integers(1, 6, (count, 1, 1))
  text = np.where(np.arange(5)[None, None] < ends, text, 0)
  return {'text': text.astype(np.int32)}


def start(objective, batch):
  """Variables in NumPy, which the expected values are computed in."""
  return jax.tree.map(np.asarray, small.start(objective, batch))


def log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_the_tagger_is_scored_at_the_characters_of_the_second_line():
  objective, batch = tagging.make(tagging.Config(**TINY)), pairs()
  params, state = start(objective, batch)
  loss, (metrics, _) = objective.loss(params, state, batch, KEY)
  features = objective.encode(params, state, batch)['characters']
  decoder = params['decoder']
  logits = np.asarray(features) @ decoder['kernel'] + decoder['bias']
  np.testing.assert_allclose(
    objective.tags((params, state), batch), logits, rtol=1e-4, atol=1e-5
  )
  second = batch['text'][:, 1]
  told = [
    log_softmax(logits)[n, t, second[n, t]] for n, t in np.argwhere(second)
  ]
  assert loss == pytest.approx(-np.mean(told), rel=1e-5)
  hits = (logits.argmax(-1) == second)[second > 0]
  assert metrics['decoder/accuracy'] == pytest.approx(hits.mean())


def test_a_frozen_encoder_is_not_shrunk():
  config = ExperimentConfig(
    objective=tagging.Config(**TINY, frozen=True),
    data=TextConfig(name='x', length=3, vocabulary=TINY['vocabulary']),
    optimizer=OptimizerConfig(weight_decay=0.1),
  )
  with pytest.raises(ValueError, match=r'groups\.encoder\.weight_decay=0'):
    config_lib.check(config)
  config.groups = {'encoder': OptimizerConfig()}
  config_lib.check(config)


def test_a_frozen_encoder_gets_no_gradient():
  batch = pairs()
  for frozen in (False, True):
    objective = tagging.make(tagging.Config(**TINY, frozen=frozen))
    variables = small.start(objective, batch)
    _, found = small.gradients(objective, variables, batch)
    moved = [np.abs(x).max() > 0 for x in jax.tree.leaves(found['encoder'])]
    assert any(moved) != frozen
    assert np.abs(found['decoder']['kernel']).max() > 0


@pytest.mark.parametrize('kind', sequences.MODES)
def test_a_masked_model_is_scored_at_hidden_characters_alone(kind):
  mask = lines.Mask(kind=kind, keep=0.5)
  config = masked_lines.Config(**TINY, mask=mask)
  objective, batch = masked_lines.make(config), pairs()
  params, state = start(objective, batch)
  loss, (metrics, _) = objective.loss(params, state, batch, KEY)
  # The same masks, drawn here.
  draws = jax.random.uniform(
    random.branch(KEY, random.OfStep.MASK), (8, 2, 6)
  ).reshape(16, 6)
  text = batch['text'].reshape(16, 5)
  order, count = map(np.asarray, sequences.hidden_order(draws, text, 0.5))
  visible = np.argsort(order, axis=1) >= count[:, None]
  features = lines.make_encoder(config, True).apply(
    {'params': params['encoder']}, text, visible=visible, mode=kind, keep=0.5
  )
  decoder = params['decoder']
  logits = np.asarray(features) @ decoder['kernel'] + decoder['bias']
  hidden = np.argwhere(~visible)
  told = [log_softmax(logits)[n, t, text[n, t]] for n, t in hidden]
  assert len(told) == count.sum() > 8
  assert loss == pytest.approx(-np.mean(told), rel=1e-4)
  hits = [logits[n, t].argmax() == text[n, t] for n, t in hidden]
  assert metrics['decoder/accuracy'] == pytest.approx(np.mean(hits))


def test_masks_act_at_use_as_they_say():
  batch = pairs()
  found = {}
  for evaluation in ('consistent', 'naive'):
    mask = lines.Mask(keep=0.5, evaluation=evaluation)
    masked = masked_lines.make(masked_lines.Config(**TINY, mask=mask))
    variables = small.start(masked, batch)
    found[evaluation] = masked.encode(*variables, batch)['y']
    # A tagger that starts from such an encoder sees the same.
    config = tagging.Config(**TINY | {'encoder': 'attention'}, mask=mask)
    tuned = tagging.make(config)
    np.testing.assert_array_equal(
      tuned.encode(*variables, batch)['y'], found[evaluation]
    )
  assert np.abs(found['consistent'] - found['naive']).max() > 1e-3


def test_information_between_lines_is_infonce_of_the_scores():
  config = paired_lines.Config(**TINY, code=3, critic_units=4)
  objective, batch = paired_lines.make(config), pairs()
  params, state = start(objective, batch)
  loss, (metrics, _) = objective.loss(params, state, batch, KEY)
  codes = jax.tree.map(np.asarray, objective.encode(params, state, batch))
  critic = params['critic']
  units = {}
  for side, name in (('first', 'global'), ('second', 'local')):
    x = codes[side] @ critic[name]['kernel'] + critic[name]['bias']
    units[side] = x / np.linalg.norm(x, axis=1, keepdims=True)
  expected = np.exp(critic['log_factor']) * units['first'] @ units['second'].T
  scores = objective.scores((params, state), batch)['global']
  np.testing.assert_allclose(scores[..., 0], expected, rtol=1e-4, atol=1e-5)
  value = np.log(8) + np.mean(np.diag(log_softmax(expected)))
  assert metrics['mi/global'] == pytest.approx(value, rel=1e-4)
  assert loss == -metrics['mi/global']
  assert metrics['mi/global_ceiling'] == pytest.approx(np.log(8))
  assert objective.negatives(batch)['mi/global'][0] == 7


METHODS = {
  'tagging': lambda axis: tagging.make(tagging.Config(**TINY), axis_name=axis),
  'masked': lambda axis: masked_lines.make(
    masked_lines.Config(**TINY), axis_name=axis
  ),
  'paired': lambda axis: paired_lines.make(
    paired_lines.Config(**TINY, code=3, critic_units=4), axis_name=axis
  ),
}


@pytest.mark.parametrize('name', METHODS)
def test_several_devices_make_the_steps_of_one(name):
  make, batch = METHODS[name], pairs()
  objective, optimizer = make(None), optax.sgd(0.1)
  params, state = small.start(objective, batch)
  fresh = step_lib.TrainState(
    jnp.zeros((), jnp.int32), params, state, optimizer.init(params), KEY
  )
  forms = small.in_all_forms(make, fresh, optimizer, batch)
  for form in ('jit', 'pmap'):
    small.assert_same(forms[form], forms['one'], tolerance=1e-4)


def test_other_data_are_refused_in_one_line():
  objective = tagging.make(tagging.Config(**TINY))
  with pytest.raises(ValueError, match=r"'text' \[N, 2, L\].* choose a Text"):
    objective.init(KEY, small.images())
  with pytest.raises(ValueError, match=r'must be \[N, 2, L\], got shape'):
    objective.init(KEY, {'text': np.zeros((3, 5), np.int32)})
