"""Settings of the tests of estimators."""

import jax
import pytest

from dim_jax.evaluation.information import fit


@pytest.fixture(autouse=True, scope='session')
def optimised_fits():
  """Optimises fits, which unlike the suite's other programs run for long."""
  optimised = jax.jit(
    fit.fit.__wrapped__,
    static_argnames=('name', 'bound', 'block'),
    compiler_options={'xla_backend_optimization_level': 1},
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fit, 'fit', optimised)
    yield
