r"""Adversarial losses of one number each, as dynamics, drawn with eigenvalues.

  python -m experiments.studies.dirac --out=runs/dirac

The prior is a point at 0, the encoder's code a point at theta, and the critic
linear, T(x) = psi x: the solution is theta = psi = 0. Each loss of
`dim_jax.losses.adversarial` moves (theta, psi) along its own gradients at once,
and the eigenvalues of that velocity's Jacobian at the solution say what happens
near it: a negative real part draws in, a real part of 0 leaves it to terms of
higher order. Writes OUT/dirac.json with them, and the picture of the fields.

Mescheder et al., Which Training Methods for GANs do actually Converge?, 2018.
https://arxiv.org/abs/1801.04406
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import checks, files
from dim_jax.commands.command import Command, show
from dim_jax.losses import adversarial
from dim_jax.report import figures
from dim_jax.runs import provenance
from experiments.studies import dynamics_figures as pictures

# Where (theta, psi) starts, how long it moves, and in which steps.
_START = (1.5, 0.0)
_TIME = 30.0
_STEP = 0.02
_GRID = np.linspace(-2, 2, 11)


class AdversarialLoss(NamedTuple):
  """A loss of the registry, as it is drawn.

  Attributes:
    label: in print.
    name: in `adversarial.ADVERSARIAL`.
    weight: of its penalty.
    clip: the critic's |psi| is cut to this; None leaves it.
  """

  label: str
  name: str
  weight: float = 1.0
  clip: float | None = None


def losses(weight: float = 0.3) -> list[AdversarialLoss]:
  """All losses of the registry; the first without its penalty, too.

  Args:
    weight: of the zero-centred penalty of 'jsd'.
  """
  cases = [AdversarialLoss('jsd, no penalty', 'jsd', 0.0)]
  for name, rules in adversarial.ADVERSARIAL.items():
    if name == 'jsd':
      cases.append(AdversarialLoss(f'jsd, penalty {weight:g}', name, weight))
    elif name == 'wgan':
      cases.append(AdversarialLoss('wgan, |ψ| clipped to 1', name, clip=1.0))
    else:
      cases.append(AdversarialLoss(name, name, 1.0 if rules.penalty else 0.0))
  return cases


def velocity(case: AdversarialLoss) -> Callable[[jax.Array], jax.Array]:
  """Computes where the gradients of both send (theta, psi) at once.

  Args:
    case: whose losses.

  Returns:
    A function from [2] to [2]: minus the encoder's gradient by theta, and minus
    the critic's by psi.
  """
  rules = adversarial.ADVERSARIAL[case.name]
  prior = jnp.zeros((1, 1))

  def critic(psi: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda x: psi * x[:, 0]

  def encoder_loss(theta: jax.Array, psi: jax.Array) -> jax.Array:
    scores = critic(psi)
    return rules.encoder_loss(scores(prior), scores(theta.reshape(1, 1)))

  def critic_loss(psi: jax.Array, theta: jax.Array) -> jax.Array:
    scores, code = critic(psi), theta.reshape(1, 1)
    loss = rules.critic_loss(scores(prior), scores(code))
    if case.weight and rules.penalty:
      # A linear critic has one gradient wherever the key puts the penalty.
      key = jax.random.key(0)
      loss += case.weight * rules.penalty(key, scores, prior, code)
    return loss

  def move(state: jax.Array) -> jax.Array:
    theta, psi = state[0], state[1]
    return -jnp.stack(
      [jax.grad(encoder_loss)(theta, psi), jax.grad(critic_loss)(psi, theta)]
    )

  return jax.jit(move)


def eigenvalues(case: AdversarialLoss) -> np.ndarray | None:
  """Of the velocity's Jacobian at theta = psi = 0.

  Args:
    case: which.

  Returns:
    Complex, [2]; None where the velocity jumps there and has no Jacobian.
  """
  move = velocity(case)
  # A hair beside it: at 0 the root of a squared distance has no derivative.
  beside = jnp.array([1e-5, 0.0])
  near = jax.vmap(move)(jnp.array([[0, 1e-3], [0, -1e-3]]))
  if float(jnp.abs(near[0] - near[1]).max()) > 0.1:
    return None
  return np.linalg.eigvals(
    np.asarray(jax.jit(jax.jacobian(move))(beside), np.float64)
  )


def trajectory(case: AdversarialLoss) -> np.ndarray:
  """(theta, psi) over time, by the fourth-order method of Runge and Kutta.

  Args:
    case: which.

  Returns:
    Shape [T, 2], from the start on.
  """
  move = velocity(case)

  def step(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
    a = move(state)
    b = move(state + 0.5 * _STEP * a)
    c = move(state + 0.5 * _STEP * b)
    d = move(state + _STEP * c)
    state += _STEP / 6 * (a + 2 * b + 2 * c + d)
    if case.clip is not None:
      state = state.at[1].set(jnp.clip(state[1], -case.clip, case.clip))
    return state, state

  start = jnp.array(_START)
  _, path = jax.lax.scan(step, start, length=round(_TIME / _STEP))
  return np.concatenate([np.array([_START]), np.asarray(path)[4::5]])


def field(case: AdversarialLoss) -> pictures.Field:
  """What is drawn of a loss.

  Args:
    case: which.
  """
  theta, psi = np.meshgrid(_GRID, _GRID)
  states = np.stack([theta, psi], -1).reshape(-1, 2)
  directions = np.array(jax.vmap(velocity(case))(jnp.asarray(states)))
  if case.clip is not None:
    directions[np.abs(states[:, 1]) > case.clip + 1e-6] = np.nan
  values = eigenvalues(case)
  return pictures.Field(
    case.label,
    directions.reshape(*theta.shape, 2),
    trajectory(case),
    values,
    'velocity jumps at ψ = 0' if values is None else '',
  )


def run(out: str, *, weight: float = 0.3) -> dict[str, Any]:
  """Computes all losses; writes OUT/dirac.json and the picture's files.

  Args:
    out: the folder.
    weight: of the zero-centred penalty of 'jsd'.

  Returns:
    The contents of the JSON file: by label, 'eigenvalues' ([real, imaginary]
    each, or None) and 'end' (theta, psi).
  """
  fields = [field(case) for case in losses(weight)]
  report = {
    'start': list(_START),
    'time': _TIME,
    'losses': {
      f.label: {
        'eigenvalues': None
        if f.eigenvalues is None
        else [[float(v.real), float(v.imag)] for v in f.eigenvalues],
        'end': [float(v) for v in f.trajectory[-1]],
      }
      for f in fields
    },
    'versions': provenance.versions(),
  }
  picture = pictures.vector_fields(
    fields,
    _GRID,
    _GRID,
    name='dirac',
    caption='Prior: a point at 0; code: a point at θ; critic: T(x) = ψx. '
    f'Both follow their gradients at once, for a time of {_TIME:g}.',
  )
  os.makedirs(out, exist_ok=True)
  figures.save(picture, out)
  files.write_json(os.path.join(out, 'dirac.json'), report)
  return report


_COMMAND = Command('studies.dirac', __doc__)
_OUT = _COMMAND.path('out', 'runs/dirac', 'The folder to write into.')
_PENALTY = _COMMAND.real('penalty', 0.3, "Weight of jsd's penalty.")


def main(argv: list[str] | None = None) -> None:
  """Runs the command line."""
  _COMMAND.run(_run, argv)


def _run() -> None:
  checks.check_range('--penalty', _PENALTY.value, '[0, inf)')
  report = run(_OUT.value, weight=_PENALTY.value)
  for label, result in report['losses'].items():
    values = result['eigenvalues']
    shown = 'none'
    if values is not None:
      shown = pictures.eigenvalues(np.array([complex(*v) for v in values]))
    show(f'{label}: {shown}')
  show(os.path.join(_OUT.value, 'dirac.png'))


if __name__ == '__main__':
  main()
