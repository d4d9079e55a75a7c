"""How far two steps are said to be apart."""

import numpy as np
import pytest

from experiments.studies import layouts


def test_differences_are_relative_to_the_loss_and_to_each_tensor():
  one = {
    'terms/loss': np.float32(4.0),
    'gradient/large': np.array([10.0, -20.0]),
    # Below a thousandth of 20, which is then what it is compared with.
    'gradient/zero': np.array([1e-9]),
  }
  other = one | {
    'terms/loss': np.float32(4.5),
    'gradient/large': np.array([10.0, -20.5]),
    'gradient/zero': np.array([3e-4]),
  }
  apart = layouts.compare(one, other)
  assert apart['loss'] == pytest.approx(0.5 / 4)
  # 0.5 / 20 against 3e-4 / 0.02.
  assert apart['gradients'] == pytest.approx(0.5 / 20)
  assert layouts.compare(one, one) == {'loss': 0, 'gradients': 0}
  with pytest.raises(ValueError, match='of one alone'):
    layouts.compare(one, {'terms/loss': np.float32(4.0)})
