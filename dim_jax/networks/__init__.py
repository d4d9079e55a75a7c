"""Flax Linen modules: layers, encoders and critics.

Nothing outside this package needs Linen: a module's `init` and `apply` are pure
functions of pytrees, and the rest of the library sees only those.
"""

from dim_jax.networks import critics, encoders, layers

__all__ = ['critics', 'encoders', 'layers']
