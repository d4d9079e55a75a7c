"""Information that features keep beyond noise, measured while they train."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax.evaluation.information import noisy

# Examples that are encoded at a time.
_ENCODED = 256
# What is logged of a `noisy.Channel`, under which name: those of other metrics
# that cannot exceed a value end in '_ceiling' too.
_LOGGED = {
  'lower': 'lower',
  'upper': 'upper',
  'gaussian': 'gaussian',
  'ceiling': 'lower_ceiling',
  'lower_error': 'error',
  'noise_std': 'noise_std',
  'label_lower': 'label_lower',
  'label_upper': 'label_upper',
  'label_ceiling': 'label_entropy',
  'label_lower_error': 'label_error',
}
CODE = 'code'


def information_monitor(
  encode: Callable[..., dict[str, jax.Array]],
  batch: Mapping[str, Any],
  key: jax.Array,
  *,
  noise: float,
  features: Sequence[str],
  posterior: Callable[..., Any] | None = None,
  rate: Callable[..., jax.Array] | None = None,
) -> Callable[[Any, Any], dict[str, jax.Array]]:
  """Makes a function that measures information on a fixed batch, for `fit`.

  Every measurement has the same noise: what changes is the encoder.

  Args:
    encode: `(params, model_state, batch) -> {name: features}`, an objective's.
    batch: examples, always the same, with 'label' [n] where labels are known.
    key: draws the noise.
    noise: as of `noisy.channel`.
    features: names of those to measure, flattened.
    posterior: an objective's, of a stochastic encoder.
    rate: likewise.

  Returns:
    A function of (params, model_state), compiled, that gives nats: for each
    feature F 'information/F_lower' and '_upper', bounds on I(X; F + noise),
    '_gaussian', '_lower_ceiling', '_error', '_noise_std', and with labels
    '_label_lower', '_label_upper', '_label_entropy' and '_label_error'; see
    `noisy.Channel`. With a posterior, F is also 'code', with its own noise, and
    with a rate 'information/code_rate' is its mean.
  """

  # The batch is an argument, as XLA would fold what is done to a constant.
  @jax.jit
  def measured(
    params: Any, model_state: Any, batch: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    def of_part(part: Mapping[str, Any]) -> tuple[dict, Any, Any]:
      variables = (params, model_state)
      outputs = encode(params, model_state, part)
      return (
        {name: outputs[name] for name in features},
        posterior and posterior(variables, part),
        rate and rate(variables, part, key, 1),
      )

    outputs, codes, rates = _in_parts(of_part, batch)
    labels = batch.get('label')
    channels = {
      name: noisy.channel(rows, noise, key, labels=labels)
      for name, rows in outputs.items()
    }
    if codes is not None:
      mean, scale, _ = codes
      channels[CODE] = noisy.stochastic_channel(mean, scale, key, labels=labels)
    metrics = {
      f'information/{name}_{_LOGGED[field]}': value
      for name, channel in channels.items()
      for field, value in channel._asdict().items()
      if field in _LOGGED and value is not None
    }
    if rates is not None:
      metrics[f'information/{CODE}_rate'] = jnp.mean(rates)
    return metrics

  return lambda params, model_state: measured(params, model_state, batch)


def _in_parts(function: Callable[..., Any], batch: Mapping[str, Any]) -> Any:
  """Applies a function to parts of a batch in turn, and joins what it gives."""
  n = len(next(iter(batch.values())))
  size = min(_ENCODED, n)
  parts = -(-n // size)
  # The last part repeats rows of the batch, which are cut off again.
  rows = jnp.arange(parts * size) % n

  def split(x: Any) -> jax.Array:
    return jnp.asarray(x)[rows].reshape(parts, size, *x.shape[1:])

  outputs = jax.lax.map(function, jax.tree.map(split, dict(batch)))
  return jax.tree.map(
    lambda x: x.reshape(parts * size, *x.shape[2:])[:n], outputs
  )
