"""Where examples come from, which of them form a step, how they vary."""

from dim_jax.data.batches import batch_indices
from dim_jax.data.sources import Dataset, load

__all__ = ['Dataset', 'batch_indices', 'load']
