"""What all tests of networks share."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _exact_products():
  # Accelerators multiply float32 at a lower precision by default.
  with jax.default_matmul_precision('highest'):
    yield
