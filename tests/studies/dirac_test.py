"""Games of one number each: eigenvalues derived by hand, and what is written.

With the prior at 0 every score of it is 0, that of the code is psi theta.
"""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.losses import adversarial
from experiments.studies import dirac


def _loss(name):
  (found,) = [loss for loss in dirac.losses() if loss.label.startswith(name)]
  return found


def _sorted(values):
  return sorted(values, key=lambda v: (v.real, v.imag))


def test_every_loss_of_the_registry_is_drawn():
  names = {loss.name for loss in dirac.losses()}
  assert names == set(adversarial.ADVERSARIAL)


def test_jsd_without_penalty_only_turns():
  # Critic softplus(psi theta), code softplus(-psi theta): the velocity is
  # (psi s(-psi theta), -theta s(psi theta)) with s the logistic function. At 0
  # s = 1/2, the Jacobian [[0, 1/2], [-1/2, 0]], its eigenvalues +- i / 2.
  found = dirac.eigenvalues(_loss('jsd, no'))
  np.testing.assert_allclose(_sorted(found), [-0.5j, 0.5j], atol=1e-4)
  theta, psi = 0.7, -0.4
  s = 1 / (1 + math.exp(-theta * psi))
  np.testing.assert_allclose(
    dirac.velocity(_loss('jsd, no'))(jnp.array([theta, psi])),
    [psi * (1 - s), -theta * s],
    rtol=1e-5,
  )


@pytest.mark.parametrize('weight', [0.3, 1.0])
def test_zero_centred_penalty_draws_in(weight):
  # The gradient of psi x is psi everywhere, so w (psi^2 + psi^2) / 2 is
  # penalised: -2 w psi is added to the critic's velocity. The Jacobian
  # [[0, 1/2], [-1/2, -2 w]] has l^2 + 2 w l + 1/4 = 0, so
  # l = -w +- sqrt(w^2 - 1/4): with time and weight counted in halves,
  # -lambda +- i sqrt(1 - lambda^2) of lambda = 2 w.
  loss = dirac.AdversarialLoss('', 'jsd', weight)
  root = np.emath.sqrt(weight**2 - 0.25)
  np.testing.assert_allclose(
    _sorted(dirac.eigenvalues(loss)),
    _sorted(np.array([-weight - root, -weight + root], complex)),
    atol=1e-3,
  )
  lam = 2 * weight
  np.testing.assert_allclose(
    2 * np.array(_sorted(dirac.eigenvalues(loss))),
    _sorted(-lam + np.array([-1, 1]) * np.emath.sqrt(lam**2 - 1 + 0j)),
    atol=2e-3,
  )


@pytest.mark.parametrize(
  ('name', 'turn'),
  [
    # psi theta against -psi theta: the Jacobian is [[0, 1], [-1, 0]]. The
    # penalties are of higher order: 2 psi^6, and psi^2 |theta| / 20.
    ('wgan,', 1.0),
    ('wgan_div', 1.0),
    ('gan_qp_l1', 1.0),
    ('gan_qp_l2', 1.0),
    # relu(1 + psi theta) has slope 1 at 0.
    ('hinge', 1.0),
    # 10 max(0, |psi| - 1)^2 is 0 around 0.
    ('wgan_lp', 1.0),
    # (psi theta + 1)^2 / 2 has slope 1 at 0, the encoder's -1.
    ('lsgan', 1.0),
    # softplus(psi theta) against softplus(-psi theta), as jsd.
    ('rsgan', 0.5),
  ],
)
def test_the_others_turn_to_first_order(name, turn):
  found = dirac.eigenvalues(_loss(name))
  np.testing.assert_allclose(_sorted(found), [-1j * turn, 1j * turn], atol=1e-4)


def test_penalties_of_higher_order_still_slow_the_critic():
  # -d/dpsi 2 psi^6 = -12 psi^5; -d/dpsi psi^2 |theta| / 20 = -psi |theta| / 10.
  state = jnp.array([0.5, 0.8])
  np.testing.assert_allclose(
    dirac.velocity(_loss('wgan_div'))(state),
    [0.8, -0.5 - 12 * 0.8**5],
    rtol=1e-5,
  )
  for name in ('gan_qp_l1', 'gan_qp_l2'):
    np.testing.assert_allclose(
      dirac.velocity(_loss(name))(state), [0.8, -0.5 - 0.04], rtol=1e-5
    )


def test_one_centred_penalty_does_not_rest_at_zero():
  # 10 (|psi| - 1)^2 pushes by 20 away from psi = 0 on both sides of it.
  loss = _loss('wgan_gp')
  assert dirac.eigenvalues(loss) is None
  move = dirac.velocity(loss)
  np.testing.assert_allclose(move(jnp.array([0.0, 0.01]))[1], 19.8, rtol=1e-4)
  np.testing.assert_allclose(move(jnp.array([0.0, -0.01]))[1], -19.8, rtol=1e-4)


def test_trajectories():
  # Inside its walls wgan turns on circles: the largest has radius 1.
  path = dirac.trajectory(_loss('wgan,'))
  assert path[0].tolist() == [1.5, 0.0]
  assert np.abs(path[:, 1]).max() == 1
  np.testing.assert_allclose(np.linalg.norm(path[-100:], axis=1), 1, atol=1e-3)
  # exp(-0.3 * 30) = 1e-4 of the start is left.
  end = dirac.trajectory(_loss('jsd, penalty'))[-1]
  assert np.linalg.norm(end) < 1e-3


def test_what_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(
    dirac,
    'losses',
    lambda weight: [dirac.AdversarialLoss('jsd, it', 'jsd', weight)],
  )
  dirac.main([f'--out={tmp_path}', '--penalty=0.5'])
  report = json.loads((tmp_path / 'dirac.json').read_text())
  values = report['losses']['jsd, it']['eigenvalues']
  # The root of 1/4 - 1/4: where turning ends, both are -1/2.
  np.testing.assert_allclose(values, [[-0.5, 0], [-0.5, 0]], atol=5e-3)
  assert (tmp_path / 'dirac.png').exists()
  header, *rows = (tmp_path / 'dirac.csv').read_text().splitlines()
  assert header == 'panel,kind,generator,critic,d_generator,d_critic'
  assert sum(',direction,' in row for row in rows) == 11 * 11


def test_negative_penalty_is_refused(tmp_path):
  with pytest.raises(SystemExit, match=r'--penalty must be >= 0, got -1\.0'):
    dirac.main([f'--out={tmp_path}', '--penalty=-1'])
  assert not list(tmp_path.iterdir())
