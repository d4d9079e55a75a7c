"""Multinomial logistic regression, many fits in one compiled program.

Libraries fit one set of weights and one penalty at a time, scikit-learn on the
host. Here all seeds, draws and penalties of a probe run at once where the
features are, and share the products with them, which are nearly all of the
work; a test holds the fits equal to scikit-learn's.
"""

import functools

import jax
import jax.numpy as jnp
import optax


def fit_logistic(
  x: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  l2: jax.Array | float,
  *,
  classes: int,
  iterations: int = 300,
  tolerance: float = 1e-4,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Fits multinomial logistic regression by L-BFGS, with a line search.

  Minimises sum_i w_i CE_i / sum_i w_i + l2/2 |kernel|^2. Logits are linear in
  the parameters, so a line search needs no further product with the features:
  an iteration costs two of them, however many steps it tries.

  Args:
    x: shape [n, D].
    labels: int, shape [n].
    weights: w, shape [n]; 0 leaves a row out.
    l2: strength of the penalty, > 0.
    classes: C.
    iterations: most iterations.
    tolerance: stop when the gradient's norm has shrunk by this factor.

  Returns:
    'kernel' [D, C] and 'bias' [C], and the logits of all rows [n, C].
  """
  weight = (weights / jnp.sum(weights))[:, None]
  targets = jax.nn.one_hot(labels, classes)
  direction_of = optax.scale_by_lbfgs(memory_size=10)

  def product(params):
    return x @ params['kernel'] + params['bias'][None, :]

  def gradient(params, logits):
    error = weight * (jax.nn.softmax(logits) - targets)
    kernel = x.T @ error + l2 * params['kernel']
    return {'kernel': kernel, 'bias': jnp.sum(error, axis=0)}

  def iterate(carry):
    params, logits, gradients, state, count = carry
    step, state = direction_of.update(gradients, state, params)
    step = jax.tree.map(jnp.negative, step)
    along = product(step)
    penalty = (
      l2 * jnp.vdot(params['kernel'], step['kernel']),
      l2 * jnp.vdot(step['kernel'], step['kernel']),
    )
    size = _line_search(logits, along, weight, targets, penalty)
    params = jax.tree.map(lambda p, s: p + size * s, params, step)
    logits = logits + size * along
    return params, logits, gradient(params, logits), state, count + 1

  params = {
    'kernel': jnp.zeros([x.shape[1], classes]),
    'bias': jnp.zeros([classes]),
  }
  logits = product(params)
  gradients = gradient(params, logits)
  target = tolerance * optax.tree.norm(gradients)
  params, *_ = jax.lax.while_loop(
    lambda carry: (
      (optax.tree.norm(carry[2]) > target) & (carry[4] < iterations)
    ),
    iterate,
    (params, logits, gradients, direction_of.init(params), 0),
  )
  # Computed anew: the running sum carries the rounding of every iteration.
  return params, product(params)


def _line_search(logits, along, weight, targets, penalty):
  """Finds a size that cuts the slope to a tenth by bracketed Newton steps."""

  def slope(size):
    p = jax.nn.softmax(logits + size * along)
    centred = along - jnp.sum(p * along, axis=1, keepdims=True)
    first = jnp.sum(weight * (p - targets) * along)
    second = jnp.sum(weight * p * jnp.square(centred))
    return first + penalty[0] + size * penalty[1], second + penalty[1]

  start, _ = slope(0.0)

  def refine(carry):
    size, low, high, _, count = carry
    first, second = slope(size)
    low = jnp.where(first < 0, size, low)
    high = jnp.where(first < 0, high, size)
    newton = size - first / jnp.maximum(second, 1e-30)
    # Where Newton leaves the bracket: double it while open, else halve it.
    middle = jnp.where(jnp.isinf(high), 2.0 * size, 0.5 * (low + high))
    better = jnp.where((newton > low) & (newton < high), newton, middle)
    good = jnp.abs(first) <= 0.1 * jnp.abs(start)
    return jnp.where(good, size, better), low, high, first, count + 1

  size, *_ = jax.lax.while_loop(
    lambda carry: (jnp.abs(carry[3]) > 0.1 * jnp.abs(start)) & (carry[4] < 10),
    refine,
    (1.0, 0.0, jnp.inf, start, 0),
  )
  return size


_STATIC = ('classes', 'iterations', 'tolerance', 'selection')


def _score(logits, labels, selection):
  """Computes what selection maximises, for each row: [n]."""
  if selection == 'accuracy':
    return (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)
  return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@functools.partial(jax.jit, static_argnames=_STATIC)
def fit_grid(x, labels, weights, l2, *, selection, **settings):
  """Fits by S masks [S, n] and G penalties, leading axes [S, G].

  Returns the kernels [S, G, D, C], biases [S, G, C], and each row's
  score [S, G, n].
  """

  def fit(weight, strength):
    params, logits = fit_logistic(x, labels, weight, strength, **settings)
    return params['kernel'], params['bias'], _score(logits, labels, selection)

  # Accelerators would round the products' inputs, and the fit never converge.
  with jax.default_matmul_precision('highest'):
    over_l2 = jax.vmap(fit, in_axes=(None, 0))
    return jax.vmap(over_l2, in_axes=(0, None))(weights, l2)


@functools.partial(jax.jit, static_argnames=_STATIC)
def fit_draws(x, labels, masks, l2, *, selection, **settings):
  """Fits R draws x [R, m, D], with G penalties, by each mask [F + 1, m].

  Returns the kernels [R, G, D, C] and biases [R, G, C] of the last mask, which
  keeps all rows, and the score of the rows that the others hold out, [R, G].
  """

  def fit(x, labels, strength):
    small, back = _row_space(x)

    def one(mask):
      params, logits = fit_logistic(small, labels, mask, strength, **settings)
      score = _score(logits, labels, selection)
      return params, jnp.sum((1 - mask) * score)

    params, scores = jax.vmap(one)(masks)
    return back(params['kernel'][-1]), params['bias'][-1], jnp.sum(scores)

  with jax.default_matmul_precision('highest'):
    over_l2 = jax.vmap(fit, in_axes=(None, None, 0))
    return jax.vmap(over_l2, in_axes=(0, 0, None))(x, labels, l2)


def _row_space(x):
  """Writes rows x [m, D] in a basis of their span; also returns the way back.

  The penalty is invariant to rotations and its minimiser lies in the rows'
  span, so m coordinates do for any D > m, exactly.
  """
  if x.shape[1] <= x.shape[0]:
    return x, lambda kernel: kernel
  squares, left = jnp.linalg.eigh(x @ x.T)
  real = squares > 1e-6 * squares[-1]
  size = jnp.sqrt(jnp.where(real, squares, 1.0))
  small = left * jnp.where(real, size, 0.0)[None, :]

  def back(kernel):
    return x.T @ (left @ (kernel * (real / size)[:, None]))

  return small, back
