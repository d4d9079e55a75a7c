"""Compares one step of each method on one device, on eight, and on two hosts.

  python -m experiments.studies.layouts --workdir=runs/layouts

Of the same parameters and batch: the loss and the gradients on one device,
under jit and under pmap on eight, and under jit in two processes of four
devices each, all simulated on this machine's CPU. The table holds the largest
differences from one device: of the loss relative to it, of the gradients
relative to the largest entry of their tensor (or a thousandth of the largest
of all tensors, if that is more: what is zero but for rounding has no relative
difference). WORKDIR/layouts.json holds the same; the same command goes on
behind the methods that it has measured.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from dim_jax import config as config_lib
from dim_jax import configs, files
from dim_jax.commands.command import Command, show
from dim_jax.runs import provenance, tables
from dim_jax.training import hosts, loop, parallel
from dim_jax.training import step as step_lib
from experiments.studies import rehearsal

# Configs, and rows of them, by method.
METHODS: Mapping[str, str] = {
  'DIM, InfoNCE': 'dim_digits:infonce',
  'DIM, JSD': 'dim_digits:jsd',
  'DIM, Donsker-Varadhan': 'dim_digits:dv',
  'DIM, global': 'dim_digits:global',
  'DIM, occlusion and coordinates': 'dim_digits:structure',
  'DIM, masked': 'dim_digits:masked',
  "DIM, Su's variant": 'dim_digits:su',
  'VIB': 'vib_digits:vib',
  'energy model, SteinGAN': 'stein_gan_digits',
  'VAE': 'dim_digits:vae',
  'AAE': 'dim_digits:aae',
  'BiGAN': 'dim_digits:bigan',
  'noise as targets': 'dim_digits:nat',
  'supervised': 'dim_digits:supervised',
  'Greedy InfoMax': 'gim_digits',
  'CPC': 'dim_digits:cpc',
}
LAYOUTS = ('1', '8', '8 pmap', '2 x 4')
_BATCH = 16
_SINGLE, _PAIR = LAYOUTS[:3], LAYOUTS[3:]

_COMMAND = Command('studies.layouts', __doc__, on_all_hosts=True)
_WORKDIR = _COMMAND.path('workdir', 'runs/layouts', 'Keeps what was measured.')
_PART = _COMMAND.string('part', None, 'Of this program itself.')


def gradients(config: Any, layout: str) -> dict[str, np.ndarray]:
  """Returns the loss, its terms and the gradients of one step, by name.

  Args:
    config: the run; its optimizer is not used.
    layout: of `LAYOUTS`.
  """
  axis_name = 'data' if layout.endswith('pmap') else None
  objective = config_lib.make_objective(config, axis_name)
  mesh = parallel.make_mesh(1 if layout == '1' else None)
  # Its state is the gradient.
  optimizer = optax.trace(decay=0.0)
  rng = np.random.default_rng(0)
  size = config.data.image_size
  shape = (_BATCH, size, size, 1)
  batch = {
    'image': rng.integers(0, 256, shape, np.uint8),
    'label': (np.arange(_BATCH) % 10).astype(np.int32),
  }
  if objective.indexed:
    objective.check_size(_BATCH)
    batch['index'] = np.arange(_BATCH, dtype=np.int32)
  # Drawn on one device: the shapes of the pmap form's networks are the same.
  plain = config_lib.make_objective(config)
  init = functools.partial(step_lib.init_state, plain, optimizer)
  state = jax.jit(init)(batch, jax.random.key(0))
  state = parallel.replicate(jax.device_get(state), mesh)
  form = 'pmap' if axis_name else 'jit'
  chunk = loop.make_chunk(objective, optimizer, mesh, form=form)
  examples = {
    name: jax.make_array_from_callback(
      (1, *x.shape), parallel.columns(mesh), x[None].__getitem__
    )
    for name, x in batch.items()
  }
  state, terms = chunk(state, {}, examples)
  found = {'terms': terms, 'gradient': state.opt_state.trace}
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(found))
  }


def _measure(workdir: pathlib.Path, layouts: Sequence[str]) -> None:
  """Writes the gradients that are not there yet."""
  for name, config in METHODS.items():
    for layout in layouts:
      path = _file(workdir, name, layout)
      if path.exists():
        continue
      hosts.at(f'{name} on {layout}')
      found = gradients(configs.load(config), layout)
      if jax.process_index() == 0:
        files.write_arrays(path, found)


def _file(workdir: pathlib.Path, name: str, layout: str) -> pathlib.Path:
  return workdir / f'{name} {layout}.npz'.replace(' ', '_').replace("'", '')


def compare(
  one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Returns how far 'loss' and 'gradients' are apart; see the file's docstring.

  Raises:
    ValueError: they are not of the same names.
  """
  if set(one) != set(other):
    raise ValueError(f'{set(one) ^ set(other)} are of one alone.')
  gradient = [name for name in one if name.startswith('gradient')]
  floor = 1e-3 * max(np.abs(one[name]).max() for name in gradient)
  loss = 'terms/loss'
  return {
    'loss': float(abs(other[loss] / one[loss] - 1)),
    'gradients': max(
      float(
        np.abs(other[name] - one[name]).max()
        / max(np.abs(one[name]).max(), floor)
      )
      for name in gradient
    ),
  }


def _run(workdir: pathlib.Path, part: str, processes: int) -> None:
  """Measures in processes of their own; raises RuntimeError where one fails."""
  command = ['-m', 'experiments.studies.layouts', f'--part={part}']
  log = workdir / part
  started = rehearsal.start(
    [[*command, f'--workdir={workdir}']] * processes,
    log,
    devices=8 // processes,
    distributed=processes > 1,
  )
  for i, status in enumerate(rehearsal.wait(started, 24 * 3600)):
    if status:
      raise RuntimeError(f'{part} ended with {status}: see {log}/{i}.err')


@_COMMAND.main
def main() -> None:
  workdir = pathlib.Path(_WORKDIR.value).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  if _PART.value:
    return _measure(workdir, _PAIR if _PART.value == 'pair' else _SINGLE)
  _run(workdir, 'single', 1)
  _run(workdir, 'pair', 2)
  results: list[dict[str, Any]] = []
  for name in METHODS:
    found = {}
    for layout in LAYOUTS:
      with np.load(_file(workdir, name, layout)) as arrays:
        found[layout] = dict(arrays)
    apart = {x: compare(found['1'], found[x]) for x in LAYOUTS[1:]}
    loss = float(found['1']['terms/loss'])
    results.append({'method': name, 'loss': loss, 'differences': apart})
  path = workdir / 'layouts.json'
  files.write_json(
    path,
    {
      **provenance.session(),
      'configs': dict(METHODS),
      'batch_size': _BATCH,
      'methods': results,
    },
  )
  rows = [
    [
      result['method'],
      f'{result["loss"]:.6f}',
      *(
        f'{x["loss"]:.0e} / {x["gradients"]:.0e}'
        for x in result['differences'].values()
      ),
    ]
    for result in results
  ]
  names = [
    'method',
    'loss on 1',
    *(f'{x}: loss / gradients' for x in LAYOUTS[1:]),
  ]
  return show(tables.table(names, rows), str(path))


if __name__ == '__main__':
  main()
