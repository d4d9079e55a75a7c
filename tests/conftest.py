"""Settings of the whole suite; they must precede the first import of jax."""

import os
import pathlib

# Eight simulated devices, so that every sharded path runs on a laptop.
# JAX_PLATFORMS=cuda (or tpu) runs the suite on real devices instead.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if 'xla_force_host_platform_device_count' not in os.environ.get(
  'XLA_FLAGS', ''
):
  os.environ['XLA_FLAGS'] = ' '.join(
    filter(
      None,
      [
        os.environ.get('XLA_FLAGS'),
        '--xla_force_host_platform_device_count=8',
      ],
    )
  )
# Figures never open a window.
os.environ.setdefault('MPLBACKEND', 'Agg')

import jax
import pytest

# Every broadcast is written out: implicit ones hid the reference
# implementation's Donsker-Varadhan bug.
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def tfds_data_dir() -> str:
  """The directory of prepared TFDS data sets; skips where there is none."""
  path = os.environ.get('TFDS_DATA_DIR')
  if not path:
    pytest.skip('TFDS_DATA_DIR is not set: no prepared data sets to read')
  if not pathlib.Path(path).is_dir():
    pytest.skip(f'TFDS_DATA_DIR={path} is not a directory')
  return path
