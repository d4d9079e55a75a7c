"""Settings of the whole suite; they must precede the first import of jax."""

import gc
import importlib.metadata
import os

# Eight simulated devices, so that every sharded path runs on a laptop.
# JAX_PLATFORMS=cuda (or tpu) runs the suite on real devices instead.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '')
if 'xla_force_host_platform_device_count' not in os.environ['XLA_FLAGS']:
  os.environ['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=8'
if os.environ['JAX_PLATFORMS'] == 'cpu':
  # Most of the suite's time goes into compiling. The first halves it, the older
  # emitters of fusions take a third of the rest, and a thread a program is
  # enough where each core has a worker.
  os.environ['XLA_FLAGS'] += (
    ' --xla_backend_optimization_level=0'
    ' --xla_cpu_parallel_codegen_split_count=1'
  )
  # Later ones have the newer emitters alone, and end at an unknown flag.
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'
  # Operations in an order that saves memory, not in one by which they could run
  # side by side: several tests look at the memory.
  os.environ['XLA_FLAGS'] += (
    ' --xla_cpu_enable_concurrency_optimized_scheduler=false'
  )
# A worker has a core: more threads of LAPACK would wait for each other.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
# Figures never open a window.
os.environ.setdefault('MPLBACKEND', 'Agg')

import jax

# Compiled programs make a heap of long-lived objects; by default the collector
# walked through it 5,000 times a worker, for a tenth of the suite's time.
gc.set_threshold(200_000, 20, 50)

# Every broadcast is written out: implicit ones hid the reference
# implementation's Donsker-Varadhan bug.
jax.config.update('jax_numpy_rank_promotion', 'raise')
