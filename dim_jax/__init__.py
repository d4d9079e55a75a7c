"""Information-maximising representations on JAX: train them, measure them.

Letters in shapes: N images (the batch), H and W pixels, C channels, L local
positions, M globals an image, D features, A = N*M anchors, P positives and K
negatives an anchor. Information is in nats.
"""

from dim_jax.load import Encoder, load
from dim_jax.objective import Objective

__all__ = ['Encoder', 'Objective', 'load']
__version__ = '0.1.0'
