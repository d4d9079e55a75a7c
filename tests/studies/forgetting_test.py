"""The study of what few nats leave: its configs, and a tiny run of it."""

import json

import numpy as np
import pytest

from dim_jax.configs import dim_digits
from dim_jax.networks import encoders
from dim_jax.objectives import autoencoder
from experiments.studies import forgetting


def test_the_rate_is_held_at_each_budget():
  config = forgetting.budgeted(dim_digits.get_config('vae'), 4.0, 50.0)
  prior = config.objective.prior
  assert (prior.distribution, prior.constraint) == ('kl', 'hold')
  assert (prior.budget, prior.weight) == (4.0, 50.0)
  autoencoder.check(config.objective)
  with pytest.raises(ValueError, match='autoencoder is needed'):
    forgetting.budgeted(dim_digits.get_config('infonce'), 4.0, 50.0)


def test_a_tiny_study_writes_numbers_and_a_page(tmp_path):
  config = forgetting.small_vae('digits')
  config.objective.encoder = encoders.MLPCode(
    units=(8,), code=3, stochastic=True
  )
  config.objective.code, config.objective.decoder_channels = 3, 8
  config.optimizer.learning_rate = 1e-2
  config.objective.norm = 'layer'
  config.data.image_size = 8
  config.steps = config.log_every = config.checkpoint_every = 150
  report = forgetting.forgetting(
    config, str(tmp_path), nats=(2,), show_progress=False
  )
  assert json.loads((tmp_path / 'forgetting.json').read_text()) == report
  (row,) = report['rows']
  # From the 0 that it starts near, the rate is brought to its budget.
  np.testing.assert_allclose(row['rate'], 2, rtol=0.25)
  assert 0 < row['capacity'] <= row['rate'] and row['active'] <= row['units']
  assert 0 < row['squared_error'] < report['mean_image_error']
  html = (tmp_path / 'report' / 'index.html').read_text()
  for name in ('units', 'rated', 'generator_reconstructions'):
    assert f'id="{name}"' in html
  with pytest.raises(ValueError, match=r'--nats must be one or more >= 0'):
    forgetting.forgetting(config, str(tmp_path), nats=(-1,))
