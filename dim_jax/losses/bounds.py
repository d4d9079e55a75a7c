"""Bounds on mutual information, from a critic's scores.

A critic scores pairs. Every bound takes `positive` [A, P], the scores of joint
pairs, P for each of A anchors; `negative` [A, K], those of K independent pairs,
which all positives of an anchor share; and `where`, bool [A, K], which marks
the negatives that are real, all of them if None. So DIM's N*L positives share
N*(N-1)*L scores and never need N*L*(N-1)*L.

Every function returns nats, a scalar, and computes in float32 whatever the
dtype of the scores. A masked negative has no effect on the value nor on any
gradient, even if it is infinite or NaN. Averages over negatives weigh every
real negative of the batch equally; without any they are NaN.

With r the density ratio p(x, y) / (p(x) p(y)), the critics that reach the truth
are ln r (jsd), ln r + c(x) (infonce), ln r + c (donsker_varadhan) and 1 + ln r
(nwj). A critic that was trained by one bound and is evaluated by another must
be shifted accordingly, as `jsd_nwj` does.

All are lower bounds to be maximised, in expectation over batches, except
`donsker_varadhan` and `mine`, whose batch value is biased upwards, and what is
labelled otherwise: `smile` and `difference_of_entropies` bound nothing, and
`club` is an upper bound under a condition.
"""

import math

import chex
import jax
import jax.numpy as jnp

# exp(scores) leaves float32 at 88, and its square, which Adam keeps, at 44.
_EXP_LIMIT = 40.0


def infonce(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  r"""Computes the InfoNCE lower bound on mutual information.

  .. math:: E[\log((K + 1) \, e^{p} / (e^{p} + \sum_k e^{n_k}))]

  K counts the real negatives of each anchor. At most ln(K + 1) nats, whatever
  the data: near that ceiling the value says nothing about the information. An
  anchor without any real negative contributes nothing: ln(0 + 1) = 0.

  It costs one logsumexp over the negatives of each anchor and one softplus for
  each positive, so no array is larger than `negative`.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    The bound in nats, a scalar. Maximise it.

  References:
    van den Oord et al., Representation Learning with Contrastive Predictive
    Coding, 2018, eq. 4 and 5. https://arxiv.org/abs/1807.03748

  Examples:
    >>> infonce(jnp.zeros((4, 2)), jnp.zeros((4, 3)))
    Array(0., dtype=float32)
  """
  positive, negative, where = checked_scores(positive, negative, where)
  count = jnp.sum(where, axis=1)
  # The gradient of an empty sum's log is 0 / 0, even where it is masked later,
  # so an anchor without real negatives sums its (zeroed) masked ones instead.
  some = count > 0
  log_sum = jax.nn.logsumexp(negative, axis=1, where=where | ~some[:, None])
  log_sum = jnp.where(some, log_sum, -jnp.inf)
  # log(e^p / (e^p + e^s)) = -log(1 + e^(s - p)), which cancels nothing.
  log_posterior = -jax.nn.softplus(log_sum[:, None] - positive)
  return jnp.mean(log_posterior) + jnp.mean(jnp.log1p(count))


def jsd(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  r"""Computes the Jensen-Shannon lower bound on mutual information.

  .. math:: E_p[\log 2 - sp(-T)] - E_q[sp(T) - \log 2], \quad sp = softplus

  Deep InfoMax's default. A lower bound on twice the Jensen-Shannon divergence
  between joint pairs and independent pairs, hence at most 2 ln 2 nats. It
  bounds the mutual information from below too, but loosely: 2 JSD <= KL,
  because the generators differ by d(r) = (1 + r) ln((1 + r) / 2) - (r - 1),
  whose derivative ln((1 + r) / 2) vanishes only at its minimum d(1) = 0. A
  batch's value is unbiased. The best critic is ln r, so the scores themselves
  estimate pointwise information. Arguments and unit are those of `infonce`.

  References:
    Hjelm et al., Learning deep representations by mutual information estimation
    and maximization, 2019, eq. 4. https://arxiv.org/abs/1808.06670
    Nowozin et al., f-GAN, 2016. https://arxiv.org/abs/1606.00709

  Examples:
    >>> jsd(jnp.zeros((4, 2)), jnp.zeros((4, 3)))
    Array(0., dtype=float32)
  """
  positive, negative, where = checked_scores(positive, negative, where)
  return (
    2 * math.log(2)
    - jnp.mean(jax.nn.softplus(-positive))
    - jnp.mean(jax.nn.softplus(negative), where=where)
  )


def donsker_varadhan(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  r"""Computes the Donsker-Varadhan bound on mutual information, as in MINE.

  .. math:: E_p[T] - \log E_q[e^{T}]

  The mean of exponentials runs over every real negative of the batch. Since it
  is inside the logarithm, the value over a *batch* is biased upwards (by about
  1.3 nats at 10 nats with 64 pairs), and its gradient is biased too: only with
  many negatives is it the lower bound it is in the limit. Arguments and unit
  are those of `infonce`.

  References:
    Belghazi et al., MINE: Mutual Information Neural Estimation, 2018, eq. 5.
    https://arxiv.org/abs/1801.04062

  Examples:
    >>> donsker_varadhan(jnp.ones((4, 2)), jnp.zeros((4, 3)))
    Array(1., dtype=float32)
  """
  positive, negative, where = checked_scores(positive, negative, where)
  log_mean = jax.nn.logsumexp(negative, where=where) - jnp.log(_count(where))
  return jnp.mean(positive) - log_mean


def nwj(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  r"""Computes the Nguyen-Wainwright-Jordan lower bound on mutual information.

  .. math:: E_p[T] - E_q[e^{T - 1}]

  The best critic is 1 + ln r, and a constant critic of 0 gives -1/e, one of 1
  gives 0. Unbiased, with a variance that grows like e^MI. It is the dual form
  of the KL divergence.

  Scores above 40 enter as T = g(t), see `log_linear_extension`: e^t would
  overflow. Since g is increasing and reaches every real number, g(t) is a
  critic like any other and the value remains a valid lower bound, as tight as
  before. Arguments and unit are those of `infonce`.

  References:
    Nguyen et al., Estimating divergence functionals and the likelihood ratio by
    convex risk minimization, 2010. https://arxiv.org/abs/0809.0853
    Poole et al., On Variational Bounds of Mutual Information, 2019, eq. 7.
    https://arxiv.org/abs/1905.06922

  Examples:
    >>> nwj(jnp.ones((4, 2)), jnp.ones((4, 3)))
    Array(0., dtype=float32)
  """
  positive, negative, where = checked_scores(positive, negative, where)
  expected_ratio = jnp.mean(
    jnp.exp(log_linear_extension(negative) - 1), where=where
  )
  return jnp.mean(log_linear_extension(positive)) - expected_ratio


def jsd_nwj(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  r"""Computes `nwj` for a critic that `jsd` trained, whose best is ln r.

  .. math:: 1 + E_p[T] - E_q[e^{T}]

  The stable way to a bound without a ceiling: maximise `jsd`, report this. With
  the scores as they are in place of scores + 1, as several published
  implementations have it, a perfect critic is low by 1/e. Arguments and unit
  are those of `infonce`.

  Examples:
    >>> jsd_nwj(jnp.zeros((4, 2)), jnp.zeros((4, 3)))
    Array(0., dtype=float32)
  """
  positive, negative, where = checked_scores(positive, negative, where)
  return nwj(positive + 1, negative + 1, where)


def mine(
  positive: jax.Array,
  negative: jax.Array,
  log_average: jax.Array,
  where: jax.Array | None = None,
  *,
  decay: float = 0.99,
) -> tuple[jax.Array, jax.Array]:
  r"""Computes `donsker_varadhan` with the gradient of MINE.

  .. math:: \nabla E_p[T] - E_q[e^{T} \nabla T] / a

  The moving average a of E_q[e^T] over batches, this one included, stands for
  the batch's own, which takes most of the bias from the gradient. It is kept as
  a logarithm, and starts with the first batch: started at 0, it would make the
  second term 1 / (1 - decay) times too large at the first step. Only batches
  that train should move it. One outlier that sets it high leaves the second
  term small for long, since it falls by a factor of `decay` a batch at most: of
  heavy tails, the scores then rise without end.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    log_average: ln a after the batch before, a scalar; -inf before the first.
    where: which negatives are real, bool, shape [A, K]; all of them if None.
    decay: the weight of the past, in [0, 1).

  Returns:
    The bound in nats, to be maximised, and the new ln a.

  Raises:
    ValueError: if `decay` is not in [0, 1).

  References:
    Belghazi et al., MINE: Mutual Information Neural Estimation, 2018, section
    3.2. https://arxiv.org/abs/1801.04062
  """
  if not 0 <= decay < 1:
    raise ValueError(f'decay is {decay}, but it must be in [0, 1).')
  positive, negative, where = checked_scores(positive, negative, where)
  log_mean = jax.nn.logsumexp(negative, where=where) - jnp.log(_count(where))
  batch = jax.lax.stop_gradient(log_mean)
  moved = jnp.logaddexp(
    log_average + math.log(decay) if decay else -jnp.inf,
    batch + math.log1p(-decay),
  )
  average = jnp.where(jnp.isneginf(log_average), batch, moved)
  # Worth nothing, this has the gradient of e^(ln mean) / a.
  drawn = jnp.exp(log_mean - average)
  drawn -= jax.lax.stop_gradient(drawn)
  return jnp.mean(positive) - batch - drawn, average


def tuba(
  positive: jax.Array,
  negative: jax.Array,
  log_baseline: jax.Array,
  where: jax.Array | None = None,
) -> jax.Array:
  r"""Computes the bound of Barber and Agakov, unnormalised, with a baseline.

  .. math:: 1 + E_p[T - \log a] - E_q[e^{T} / a]

  The baseline a(y) > 0 of an anchor y is a network's or a constant: the best is
  E_q[e^T | y], and then T may be any ln r + c(y). `nwj` has a = e. Scores less
  their baseline above 40 are treated as in `nwj`.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    log_baseline: ln a of each anchor, shape [A].
    where: which negatives are real, bool, shape [A, K]; all of them if None.

  Returns:
    The bound in nats, a scalar. Maximise it, over the baseline too.

  References:
    Poole et al., On Variational Bounds of Mutual Information, 2019, eq. 5.
    https://arxiv.org/abs/1905.06922
  """
  positive, negative, where = checked_scores(positive, negative, where)
  chex.assert_shape(log_baseline, positive.shape[:1])
  baseline = log_baseline.astype(jnp.float32)[:, None]
  return jsd_nwj(positive - baseline, negative - baseline, where)


def interpolated(
  positive: jax.Array,
  negative: jax.Array,
  log_baseline: jax.Array,
  where: jax.Array | None = None,
  *,
  alpha: float = 0.5,
) -> jax.Array:
  r"""Computes the bound between `tuba` (alpha = 0) and InfoNCE (alpha = 1).

  .. math:: 1 + E_p[T - \log(\alpha m + (1 - \alpha) a)]
    - E_q[e^{T} / (\alpha m + (1 - \alpha) a)]

  Here m is the mean of e^T over K pairs of an anchor, of which one is the pair
  in front of it: K - 1 of the negatives beside a positive, one left out, and
  all K beside a negative, for which the last term is m / (alpha m + ...). The
  variance falls and the bias grows with alpha: at most ln(K / alpha) nats.

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    log_baseline: ln a of each anchor, shape [A].
    where: which negatives are real, bool, shape [A, K]; all of them if None.
      Each anchor needs one.
    alpha: in [0, 1].

  Returns:
    The bound in nats, a scalar. Maximise it, over the baseline too.

  Raises:
    ValueError: if alpha is not in [0, 1].

  References:
    Poole et al., On Variational Bounds of Mutual Information, 2019, eq. 15.
    https://arxiv.org/abs/1905.06922
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f'alpha is {alpha}, but it must be in [0, 1].')
  if alpha == 0:  # Without m, nothing keeps the last term below 1 / alpha.
    return tuba(positive, negative, log_baseline, where)
  positive, negative, where = checked_scores(positive, negative, where)
  chex.assert_shape(log_baseline, positive.shape[:1])
  count = jnp.sum(where, axis=1).astype(jnp.float32)[:, None]
  log_sum = jax.nn.logsumexp(negative, axis=1, where=where, keepdims=True)
  log_mean = log_sum - jnp.log(count)
  # The mean of the negatives stands for each choice of the one left out, which
  # errs to the safe side: -log is convex.
  others = log_mean + jnp.log(jnp.maximum(count - 1, 0))
  beside = jnp.logaddexp(positive, others) - jnp.log(count)
  weights = jnp.log(jnp.asarray([alpha, 1 - alpha], jnp.float32))
  baseline = log_baseline.astype(jnp.float32)[:, None] + weights[1]
  denominator = jnp.logaddexp(beside + weights[0], baseline)
  ratio = jnp.exp(log_mean - jnp.logaddexp(log_mean + weights[0], baseline))
  return 1 + jnp.mean(positive - denominator) - jnp.mean(ratio)


def smile(
  positive: jax.Array,
  negative: jax.Array,
  where: jax.Array | None = None,
  *,
  limit: float = 5.0,
) -> jax.Array:
  r"""Computes SMILE, `donsker_varadhan` with clipped scores of negatives.

  .. math:: E_p[T] - \log E_q[e^{\max(\min(T, \tau), -\tau)}]

  To report, with a critic that `jsd` trained. It is not a bound: with the best
  critic it overestimates 10 nats by 1 with a limit of 1, and by 2 with one of
  5 (64 pairs, 20 dimensions).

  Args:
    positive: scores of joint pairs, shape [A, P].
    negative: scores of independent pairs, shape [A, K].
    where: which negatives are real, bool, shape [A, K]; all of them if None.
    limit: tau, in nats; infinity for `donsker_varadhan`.

  Returns:
    The estimate in nats, a scalar.

  References:
    Song and Ermon, Understanding the Limitations of Variational Mutual
    Information Estimators, 2020, eq. 16. https://arxiv.org/abs/1910.06222
  """
  positive, negative, where = checked_scores(positive, negative, where)
  return donsker_varadhan(positive, jnp.clip(negative, -limit, limit), where)


def club(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  r"""Computes CLUB, an upper bound where the scores are exact.

  .. math:: E_p[\log q(y | x)] - E_q[\log q(y | x)]

  With q the true conditional density it is at least the mutual information, and
  for correlated Gaussians it is rho^2 / (1 - rho^2). With a fitted q it is no
  bound on either side, and can be negative. Scores are log q(y | x) in nats,
  with q fitted by its likelihood, not by this value; arguments are those of
  `infonce`.

  References:
    Cheng et al., CLUB: A Contrastive Log-ratio Upper Bound of Mutual
    Information, 2020. https://arxiv.org/abs/2006.12013
  """
  positive, negative, where = checked_scores(positive, negative, where)
  return jnp.mean(positive) - jnp.mean(negative, where=where)


def difference_of_entropies(
  log_conditional: jax.Array, log_marginal: jax.Array
) -> jax.Array:
  r"""Computes H(Y) - H(Y | X) from two models' log densities.

  .. math:: E_p[\log q(y | x)] - E_p[\log q(y)]

  The difference of two upper bounds, so a bound on neither side: it errs by how
  much better the one model is than the other. In return it has no ceiling like
  ln N.

  Args:
    log_conditional: log q(y | x) in nats of joint pairs, shape [N].
    log_marginal: log q(y) in nats, shape [N].

  Returns:
    The estimate in nats, a scalar.

  References:
    McAllester and Stratos, Formal Limitations on the Measurement of Mutual
    Information, 2020. https://arxiv.org/abs/1811.04251
  """
  chex.assert_rank([log_conditional, log_marginal], 1)
  chex.assert_equal_shape([log_conditional, log_marginal])
  difference = log_conditional.astype(jnp.float32) - log_marginal.astype(
    jnp.float32
  )
  return jnp.mean(difference)


def ceiling(name: str, num_negatives: int) -> float | None:
  """Returns the most that a bound or divergence can reach, whatever the data.

  Args:
    name: a bound, or one of `f_divergences.py`, such as 'infonce'.
    num_negatives: K, at least 1; only 'infonce' depends on it.

  Returns:
    The ceiling in the function's own unit, or None where there is none.

  Raises:
    ValueError: if the name is unknown, or there is no negative.

  Examples:
    >>> round(ceiling('infonce', 63), 4)
    4.1589
  """
  if num_negatives < 1:
    raise ValueError(
      f'num_negatives is {num_negatives}, but a bound needs at least one.'
    )
  ceilings = {
    'infonce': math.log(num_negatives + 1),
    'jsd': 2 * math.log(2),
    'donsker_varadhan': None,
    'nwj': None,
    # A perfect classifier has no cross-entropy.
    'gan': 0.0,
    'kl': None,
    'reverse_kl': None,
    # The distance between distributions without common support.
    'squared_hellinger': 2.0,
    'chi_squared': None,
  }
  if name not in ceilings:
    raise ValueError(f'Unknown bound {name!r}: accepted are {list(ceilings)}.')
  return ceilings[name]


def split_pairs(
  scores: jax.Array, image: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Splits the scores of all pairs in a batch into positives and negatives.

  Anchor a is a global feature of image a // M, where each of the N images has M
  globals. Its positives are the locals of its own image, its negatives those of
  all others. The positives stay in `negative`, masked, so that shapes are
  static and nothing is gathered.

  Args:
    scores: of every global with every local, shape [A, N, L], A = N * M.
    image: the image of each anchor, int32 [A], where `scores` are those of some
      anchors only, of any number; by default `image_of_anchor`.

  Returns:
    positive [A, L]; negative and where [A, N * L], with (N - 1) * L real ones
    for each anchor. These are the arguments of every bound:
    `infonce(*split_pairs(scores))`.

  Raises:
    ValueError: without `image`, those of `image_of_anchor`.

  Examples:
    >>> positive, negative, where = split_pairs(jnp.zeros((4, 4, 9)))
    >>> positive.shape, negative.shape, int(where[0].sum())
    ((4, 9), (4, 36), 27)
  """
  if image is None:
    image = image_of_anchor(scores)
  num_anchors, num_images, num_locals = scores.shape
  chex.assert_shape(image, (num_anchors,))
  own = image[:, None] == jnp.arange(num_images)[None, :]
  # A masked sum rather than a gather: it keeps the anchors' sharding.
  positive = jnp.sum(scores, axis=1, where=own[:, :, None])
  flat = (num_anchors, num_images * num_locals)
  where = jnp.broadcast_to(~own[:, :, None], scores.shape).reshape(flat)
  return positive, scores.reshape(flat), where


def image_of_anchor(scores: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
  """Returns the image that each anchor of a batch is of, a // M, int32 [A].

  Args:
    scores: shape [A, N, L], as of `split_pairs`; only the shape matters.

  Raises:
    ValueError: if A is not a multiple of N, or if the batch has one image only
      and so no negatives.
  """
  chex.assert_rank(
    scores, 3, custom_message='scores must be [anchors, images, locals].'
  )
  num_anchors, num_images, _ = scores.shape
  if num_images < 2:
    raise ValueError(
      'The batch has 1 image, but negatives are the locals of other images: '
      'a batch of at least 2 images is needed.'
    )
  if num_anchors == 0 or num_anchors % num_images:
    raise ValueError(
      f'{num_anchors} anchors for {num_images} images (scores of shape '
      f'{scores.shape}): the anchors must be a multiple of the images, every '
      "image's globals one after the other."
    )
  return jnp.arange(num_anchors) // (num_anchors // num_images)


def log_linear_extension(
  scores: jax.Array, limit: float = _EXP_LIMIT
) -> jax.Array:
  """Computes the identity up to a limit, and a logarithm above it.

  g(t) = t for t <= limit, limit + log(1 + t - limit) above: continuous with its
  derivative, increasing, and onto the real line. exp(g(t)) is linear above the
  limit, so it is finite in float32 and its gradient neither explodes nor
  vanishes; a clipped exponential's gradient would be zero, and a critic whose
  scores start too high would never come back. Of any shape.
  """
  above = scores > limit
  excess = jnp.where(above, scores - limit, 0.0)
  return jnp.where(above, limit + jnp.log1p(excess), scores)


def _count(where: jax.Array) -> jax.Array:
  """How many negatives are real, as float32: int32 ends at 2 billion."""
  return jnp.sum(jnp.sum(where, axis=-1).astype(jnp.float32))


def checked_scores(
  positive: jax.Array, negative: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns a bound's arguments, checked, with harmless masked negatives.

  Scores become float32, and a mask of None one of all negatives. Masked
  negatives become 0 here, before any function sees them, and are left out of
  every sum after it: `where=` in a reduction alone would keep the value clean,
  but not the gradient, since the derivative of what an infinite entry went
  through, times zero, is NaN.

  Raises:
    AssertionError: if a rank, shape or dtype is not as described.
  """
  message = 'A bound takes positive [A, P], negative [A, K], where [A, K]: {} '
  chex.assert_rank(positive, 2, custom_message=message.format('positive.'))
  chex.assert_rank(negative, 2, custom_message=message.format('negative.'))
  chex.assert_equal_shape_prefix(
    [positive, negative], 1, custom_message=message.format('anchors differ.')
  )
  if where is None:
    where = jnp.ones(negative.shape, bool)
  chex.assert_type(where, bool)
  chex.assert_equal_shape(
    [negative, where], custom_message=message.format('where.')
  )
  positive = positive.astype(jnp.float32)
  negative = jnp.where(where, negative, 0.0).astype(jnp.float32)
  return positive, negative, where
