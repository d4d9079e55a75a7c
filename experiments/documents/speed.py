"""Tables of speed and memory."""

from typing import Any

from experiments.documents import markdown
from experiments.documents.results import exists, load

_INTEL, _AMD = '', '_amd'
# What is timed; the file without its machine; of which field it is; and by
# field, what it is compared with.
_STEPS = (
  (
    "DIM(L), `projection` critic (the paper's) on both sides",
    'bench_dim_step_projection',
    'fit_step_s',
    {'peer_s': 'PyTorch', 'peer_compiled_s': 'PyTorch, compiled'},
  ),
  (
    "DIM(L), `factored` critic, against PyTorch's `projection`",
    'bench_dim_step_factored',
    'fit_step_s',
    {'peer_s': 'PyTorch', 'peer_compiled_s': 'PyTorch, compiled'},
  ),
  (
    'VIB, K = 256, one sample',
    'bench_vib_step',
    'ours_s',
    {
      'peer_s': 'PyTorch',
      'peer_compiled_s': 'PyTorch, compiled',
      'peer_fused_s': 'PyTorch, fused Adam',
    },
  ),
  (
    'Greedy InfoMax, sound',
    'bench_gim_step_sound',
    'ours_s',
    {
      'peer_s': "the authors' form in PyTorch",
      'peer_lean_s': 'PyTorch, gathering what it uses',
    },
  ),
  (
    'Greedy InfoMax, ResNet-50',
    'bench_gim_step_vision',
    'ours_s',
    {'peer_s': 'PyTorch'},
  ),
  (
    'SimCLR, a small ResNet, 128 images',
    'bench_simclr_step',
    'ours_s',
    {'peer_s': 'stable-pretraining 0.1.8 (JAX)'},
  ),
  (
    'SVGD, 1,000 particles in 50 dimensions',
    'bench_svgd',
    'ours_s',
    {'peer_s': 'blackjax 1.7.1'},
  ),
)


def _processor(file: dict[str, Any]) -> str:
  name = file['machine']['processor'].removesuffix(' Processor')
  return name.replace('(R)', '')


def _seconds(value: float) -> str:
  return f'{1000 * value:.1f} ms' if value < 0.1 else f'{value:.3f} s'


def steps() -> str:
  """Seconds a step beside others', on each machine that measured them."""
  rows = []
  for name, stem, field, peers in _STEPS:
    for machine in (_AMD, _INTEL):
      if not exists(stem + machine):
        continue
      file = load(stem + machine)
      for peer, peer_name in peers.items():
        if peer in file:
          rows.append(
            [
              name,
              _processor(file),
              _seconds(file[field]),
              peer_name,
              _seconds(file[peer]),
              f'{file[peer] / file[field]:.2f}',
            ]
          )
  return markdown.table(
    ['step', 'two cores of', 'dim_jax', 'against', 'takes', 'times'], rows
  )


def baseline_steps() -> str:
  """Seconds a step of the baselines, beside the least their parts take."""
  file = load('bench_baseline_step_amd')
  names = {
    'supervised': 'supervised',
    'ae': 'AE',
    'vae': 'VAE',
    'aae': 'AAE',
    'bigan': 'BiGAN',
    'nat': 'noise as targets',
  }
  return markdown.table(
    ['step', 'seconds', 'GFLOP', 'times the sum of its parts'],
    [
      [
        name,
        f'{file[f"{key}_s"]:.3f}',
        f'{file["step_gflop"][key]:.1f}',
        f'{file["ratio_to_floor"][key]:.2f}',
      ]
      for key, name in names.items()
    ],
  )


def small_encoders() -> str:
  """Examples a second of the small encoders of Greedy InfoMax."""
  cases = {
    'vision_small': '`resnet_small`',
    'vision_patch_small': '`patch_small`',
    'sound_small': '`sound_small`',
  }
  rows = []
  for case, name in cases.items():
    rates = [
      load(f'bench_gim_step_{case}{machine}')['examples_per_s']
      for machine in (_AMD, _INTEL)
    ]
    rows.append([name, *(f'{rate:.0f}' for rate in rates)])
  return markdown.table(
    ['modules', 'examples a second, AMD EPYC', 'Intel Xeon'], rows
  )


def _size(row: dict[str, Any] | None, memory_alone: bool) -> str:
  if row is None:
    return ''
  memory = f'{row["peak_bytes"] / 2**20:,.0f} MiB'
  if memory_alone:
    return memory
  rate = row['examples_per_s']
  text = f'{rate:.0f}' if rate >= 10 else f'{rate:.1f}'
  return f'{text} a second, {memory}'


def sizes() -> str:
  """How fast every encoder trains and in how much memory."""
  rows: dict[str, dict[int, dict[str, Any]]] = {}
  machines = {}
  for name in filter(exists, ('bench_sizes', 'bench_sizes_amd')):
    file = load(name)
    for row in file['rows']:
      rows.setdefault(row['encoder'], {})[row['batch_size']] = row
      machines[row['encoder']] = _processor(file)
  return markdown.table(
    ['encoder', 'one core of', '8 at a time', '64 at a time'],
    [
      [
        f'`{name}`',
        machines[name],
        *(
          _size(by_size.get(size), machines[name] == 'AMD EPYC')
          for size in (8, 64)
        ),
      ]
      for name, by_size in rows.items()
    ],
  )


def memory() -> str:
  """What XLA plans for the gradient of ResNet-50's modules on 32 images."""
  rows = []
  files = [('AMD EPYC', 'default', load('bench_gim_memory_amd'))]
  for row in load('bench_gim_memory')['rows']:
    scheduler = 'saves memory' if row['xla_flags'] else 'default'
    files.append(('Intel Xeon', scheduler, row))
  for machine, order, row in files:
    rows.append(
      [
        machine,
        order,
        *(
          f'{row[key] / 1e9:.1f}' for key in ('end_to_end_bytes', 'joint_bytes')
        ),
        ' / '.join(f'{size / 1e9:.1f}' for size in row['stored_bytes']),
      ]
    )
  return markdown.table(
    [
      'machine',
      'order of operations',
      'end to end, GB',
      'isolated modules, GB',
      'one module, GB',
    ],
    rows,
  )


def time_to_accuracy() -> str:
  """Seconds of training until a probe reads an accuracy."""
  rows = []
  for case, levels in (('cifar10', ('52%', '55%')), ('digits', ('90%',))):
    file = load(f'time_to_accuracy_{case}_amd')
    _, seconds, best = file['curves']['peer'][-1]
    for level in levels:
      peer = file[level]['peer_s']
      stopped = f'stopped at {100 * best:.1f} % after {seconds:,.0f} s'
      rows.append(
        [
          f'{case}, {level.replace("%", " %")}',
          f'{file[level]["ours_s"]:.1f}',
          stopped if peer is None else f'{peer:.1f}',
        ]
      )
  return markdown.table(
    ['data and accuracy', 'dim_jax, s', "PyTorch, the paper's critic, s"],
    rows,
  )


def particles() -> str:
  """The large case of SVGD."""
  file = load('bench_svgd')
  return markdown.table(
    ['10,000 particles', 'seconds a step', 'MB'],
    [
      [
        'a given bandwidth, in blocks',
        f'{file["large_s"]:.2f}',
        f'{file["large_bytes"] / 1e6:.0f}',
      ],
      [
        "finding the paper's bandwidth, in blocks",
        f'{file["large_bandwidth_s"]:.2f}',
        f'{file["large_bytes"] / 1e6:.0f}',
      ],
      ['all pairs at once', '—', f'{file["large_pairs_bytes"] / 1e6:.0f}'],
    ],
  )


def sweep_step() -> str:
  """The bottleneck's sweep as one program, and what samples cost."""
  rows = []
  for machine in (_AMD, _INTEL):
    file = load(f'bench_vib_step{machine}')
    rows.append(
      [
        _processor(file),
        f'{100 * (file["ratio_samples_12"] - 1):.0f} %',
        f'{1000 * file["sweep_step_s"]:.1f}',
        f'{file["sweep_bytes"] / 1e9:.2f}',
      ]
    )
  return markdown.table(
    [
      'two cores of',
      '12 samples cost beside one',
      'sweep of 15 runs, ms a step and run',
      'its memory, GB',
    ],
    rows,
  )


def reproducibility() -> str:
  """The same seeds again: on one processor, and on another."""
  rows = []
  for run in load('reproducibility')['runs']:
    rows.append(
      [
        run['what'],
        run['processor'],
        run['commit'],
        f'{run["mi/local"]:.4f}',
        run['probe'],
      ]
    )
  return markdown.table(
    [
      'run',
      'processor',
      'commit',
      'information, nats',
      'linear probe (of the demo with 5 labels per class), %',
    ],
    rows,
  )
