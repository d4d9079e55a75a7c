"""TPU slices that need not be there: their chips, and programs made for them.

The compiler of the [tpu] extra builds a program for any slice on a host without
TPUs. Sizes, operations and bytes are the compiler's; seconds are these divided
by what a chip does at most.
"""

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from dim_jax.runs import hlo

REFERENCE = 4  # chips, against which larger slices are compared


class Chip(NamedTuple):
  """What a chip does at most.

  Attributes:
    flops: operations a second in bfloat16.
    hbm: bytes of memory.
    hbm_rate: bytes a second, to and from it.
    ici: bytes a second that it sends to its neighbours, over all links; half of
      what the sources call bidirectional.
    shapes: of the slices that there are.
    source: of these figures.
  """

  flops: float
  hbm: float
  hbm_rate: float
  ici: float
  shapes: tuple[str, ...]
  source: str


_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBES = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8'),
  *('8x8x16', '8x16x16', '16x16x16'),
)
_DOCS = 'https://docs.cloud.google.com/tpu/docs/'
CHIPS = {
  # Six links of 50 GB/s each way: table 4 of https://arxiv.org/abs/2304.01433
  'v4': Chip(275e12, 32 * 2**30, 1200e9, 300e9, _CUBES, f'{_DOCS}v4'),
  'v5e': Chip(197e12, 16e9, 819e9, 200e9, _FLAT, f'{_DOCS}v5e'),
  'v5p': Chip(
    459e12, 95e9, 2765e9, 600e9, (*_CUBES, '16x16x24'), f'{_DOCS}v5p'
  ),
  'v6e': Chip(918e12, 32e9, 1638e9, 400e9, _FLAT, f'{_DOCS}v6e'),
}

# libtpu asks a TPU's host for these, and waits where there is none.
_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  # Only one process may hold TPUs; this one holds none.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


class DoesNotFitError(ValueError):
  """A program needs more memory than a chip has."""


def parse(name: str) -> tuple[Chip, int]:
  """Returns the chip of a slice such as 'v5e:16x16', and how many there are.

  Raises:
    ValueError: there is no such slice; it names those that there are.
  """
  kind, _, shape = name.partition(':')
  known = '; '.join(f'{k}: {", ".join(x.shapes)}' for k, x in CHIPS.items())
  if kind not in CHIPS:
    raise ValueError(
      f'unknown topology {name!r}: give CHIP:SHAPE, such as v5e:16x16, of '
      f'{known}.'
    )
  chip = CHIPS[kind]
  if shape not in chip.shapes:
    sizes = [_count(x) for x in chip.shapes]
    asked = ''
    if re.fullmatch(r'\d+(x\d+)*', shape):
      asked = f', of {_count(shape):,} chips'
    raise ValueError(
      f'there is no slice {name!r}{asked}: those of {kind} have {min(sizes)} '
      f'to {max(sizes):,} chips, {", ".join(chip.shapes)}.'
    )
  return chip, _count(shape)


def _count(shape: str) -> int:
  return math.prod(map(int, shape.split('x')))


def reference(name: str) -> str:
  """Names the slice of `REFERENCE` chips of the same kind."""
  kind = name.partition(':')[0]
  shape = next(x for x in CHIPS[kind].shapes if _count(x) == REFERENCE)
  return f'{kind}:{shape}'


def devices(name: str) -> list[Any]:
  """Returns the devices of a slice, to compile for but not to run on.

  Changes the process: JAX's own devices are this host's CPUs, unless it has
  looked for others before.

  Raises:
    ValueError: there is no such slice, or no compiler for TPUs.
  """
  _, chips = parse(name)
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      f'--topology={name} needs the compiler for TPUs, but no TPU: install '
      "it, pip install 'dim_jax[tpu]'."
    )
  os.environ.update(_ENVIRONMENT)
  jax.config.update('jax_platforms', 'cpu')
  from jax.experimental import topologies

  more: dict[str, Any] = {}
  if name.startswith('v4:'):
    # Both cores of a chip are one device, as JAX has it on a TPU.
    more['chip_config_name'] = 'megacore'
  elif chips == 1:
    more['chips_per_host_bounds'] = (1, 1, 1)
  found = topologies.get_topology_desc(name, 'tpu', **more).devices
  return list(found)


def compile_for(name: str, lowered: jax.stages.Lowered) -> dict[str, Any]:
  """Compiles a program for a slice and counts.

  Args:
    name: of the slice.
    lowered: the program, on the devices of the slice.

  Returns:
    Of one chip and run of the program: 'memory' in bytes, by what it is for,
    with 'total' and 'peak', and 'hbm', what there is; 'flops' and 'bytes',
    which are accessed in memory; what `hlo.summary` returns; 'seconds' at the
    peak of the chip, by what takes them; and 'compile_seconds', of the clock
    and the CPU. And the 'topology' and its 'chips'.

  Raises:
    DoesNotFitError: a chip has not the memory.
  """
  chip, chips = parse(name)
  started, cpu = time.perf_counter(), time.process_time()
  try:
    # A program from the cache would have taken no time.
    with _without_cache():
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise DoesNotFitError(_too_large(name, str(error))) from error
  seconds = {
    'wall': round(time.perf_counter() - started, 1),
    'cpu': round(time.process_time() - cpu, 1),
  }
  cost = compiled.cost_analysis() or {}
  text = _text(name, compiled)
  sent = hlo.summary(text, chips)
  flops = cost.get('flops', math.nan) + hlo.repeated_flops(text)
  accessed = cost.get('bytes accessed', math.nan)
  return {
    'topology': name,
    'chips': chips,
    'memory': memory(compiled),
    'hbm': chip.hbm,
    'flops': flops,
    'bytes': accessed,
    **sent,
    'seconds': {
      'FLOPs': flops / chip.flops,
      'memory': accessed / chip.hbm_rate,
      'interconnect': sent['sent'] / chip.ici,
    },
    'compile_seconds': seconds,
  }


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Returns the bytes of a program on a device, by what they are for."""
  found: Any = compiled.memory_analysis()
  parts = {
    'arguments': found.argument_size_in_bytes,
    'temporaries': found.temp_size_in_bytes,
    'output': found.output_size_in_bytes - found.alias_size_in_bytes,
    'program': found.generated_code_size_in_bytes,
  }
  total = sum(parts.values())
  return parts | {'total': total, 'peak': found.peak_memory_in_bytes}


def _text(name: str, compiled: jax.stages.Compiled) -> str:
  """Returns a program as text, which some versions of the compiler cannot."""
  try:
    return compiled.as_text() or ''
  except jax.errors.JaxRuntimeError as error:
    version = importlib.metadata.version('libtpu')
    raise ValueError(
      f'libtpu {version} cannot write down its program for {name}: '
      f'{str(error).splitlines()[0][:120]}; use the version that jax '
      f"{jax.__version__} asks for, pip install 'jax[tpu]=={jax.__version__}'."
    ) from error


def _too_large(name: str, message: str) -> str:
  sizes = re.findall(r'\d+(?:\.\d+)?[KMGT]\b', message)
  needs = f' ({sizes[0]} of {sizes[1]})' if len(sizes) > 1 else ''
  return (
    f'the step needs more memory than a chip of {name} has{needs}: use fewer '
    'examples a chip (batch_size, accumulate), a method that keeps less (such '
    'as objective.memory), or chips with more.'
  )


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
  settings: Any = jax.config
  before = settings.jax_enable_compilation_cache
  settings.update('jax_enable_compilation_cache', False)
  try:
    yield
  finally:
    settings.update('jax_enable_compilation_cache', before)


def efficiency(
  report: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, float]:
  """Compares what a chip does with what it does in a smaller slice.

  Args:
    report: of `compile_for`.
    base: that of the smaller slice, of as many examples a chip.

  Returns:
    Base over report, of 'FLOPs', 'bytes' and 'step' (the slowest of each): 1
    where a chip does no more than in the smaller slice.
  """
  return {
    'FLOPs': base['flops'] / report['flops'],
    'bytes': base['bytes'] / report['bytes'],
    'step': max(base['seconds'].values()) / max(report['seconds'].values()),
  }


def lines(report: dict[str, Any]) -> list[tuple[str, str]]:
  """Formats what `compile_for` returned as (name, text)."""
  held = dict(report['memory'])
  total, peak = held.pop('total'), held.pop('peak')
  each = ', '.join(f'{k} {_size(v)}' for k, v in held.items())
  compiled, seconds = report['compile_seconds'], report['seconds']
  slowest = max(seconds, key=lambda k: seconds[k])
  times = ', '.join(f'{k} {1e3 * v:.3g}' for k, v in seconds.items())
  found = [
    (
      'slice',
      f'{report["topology"]}, {report["chips"]:,} chips; compiled in '
      f'{compiled["wall"]} s ({compiled["cpu"]} s of CPU)',
    ),
    (
      'memory',
      f'{_size(total)} of {_size(report["hbm"])} on each chip: {each}; peak '
      f'{_size(peak)}',
    ),
    (
      'a chip',
      f'{report["flops"] / 1e12:.4g} TFLOP a step, products in loops in full; '
      f'{_size(report["bytes"])} accessed, the body of a loop once',
    ),
    ('collectives', communication(report)),
    (
      'step',
      f'at least {1e3 * seconds[slowest]:.3g} ms at the peak of the chip, by '
      f'{slowest} (ms: {times})',
    ),
  ]
  if scaling := report.get('efficiency'):
    words = ', '.join(f'{k} {v:.2f}' for k, v in scaling.items())
    found.append(
      ('scaling', f'{words} of {REFERENCE} chips with as many examples a chip')
    )
  return found


def communication(report: dict[str, Any]) -> str:
  """Formats what `hlo.summary` returned, of a step."""

  def kinds(found: dict[str, dict[str, int]]) -> str:
    return ', '.join(
      f'{x["count"]:,} {kind} {_size(x["bytes"])}' for kind, x in found.items()
    )

  largest = report['largest']
  if largest is None:
    return 'none'
  return (
    f'{kinds(report["collectives"])} a step, the largest {largest["kind"]} of '
    f'{_size(largest["bytes"])}; in loops: {kinds(report["looped"]) or "none"}'
  )


def _size(count: float) -> str:
  for unit, name in ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB')):
    if count >= unit:
      return f'{count / unit:.3g} {name}'
  return f'{count:.0f} bytes'
