"""Programs for TPU slices that are not there."""

import importlib.util
import math

import jax
import pytest

from dim_jax import config as config_lib
from dim_jax.networks import context, greedy_modules
from dim_jax.objectives import dim, gim, vib
from dim_jax.runs import dry_run, slices
from dim_jax.training import parallel
from experiments import train as train_command

NAMES = [
  f'{k}:{shape}' for k, chip in slices.CHIPS.items() for shape in chip[4]
]
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='compiles for TPUs: needs the extra [tpu]',
)


def run(objective, data, batch_size, **fields):
  return config_lib.ExperimentConfig(
    objective=objective, data=data, batch_size=batch_size, steps=1, **fields
  )


def vib_run(batch_size, **fields):
  objective = vib.Config(units=(8,), code=2, num_classes=10)
  data = config_lib.DataConfig(name='mnist', image_size=None, stream=True)
  return run(objective, data, batch_size, **fields)


def dim_run(batch_size):
  objective = dim.Config(
    encoder='small32', code=8, critic_units=16, num_classes=0
  )
  data = config_lib.DataConfig(name='digits', image_size=None, stream=True)
  return run(objective, data, batch_size)


def gim_run(batch_size, negatives_of=None):
  objective = gim.Config(
    modules=(greedy_modules.ConvModule(4, 10, 5, 2), context.GRU(3)),
    offsets=2,
    negatives=7,
    window=16,
    num_classes=2,
    negatives_of=negatives_of,
  )
  data = config_lib.SoundConfig(name='./nowhere', window=160)
  return run(objective, data, batch_size)


def report(**changes):
  return {
    'topology': 'v5e:4x4',
    'chips': 16,
    'memory': {
      'arguments': 2_000_000,
      'temporaries': 1_500_000_000,
      'output': 8,
      'program': 4_000,
      'total': 1_502_004_008,
      'peak': 1_600_000_000,
    },
    'hbm': 16e9,
    'flops': 197e9,
    'bytes': 8.19e9,
    'collectives': {'all-reduce': {'count': 12, 'bytes': 3_000_000}},
    'looped': {'all-reduce': {'count': 10, 'bytes': 1_000_000}},
    'largest': {'kind': 'all-reduce', 'bytes': 900_000},
    'sent': 2e6,
    'seconds': {'FLOPs': 1e-3, 'memory': 1e-2, 'interconnect': 1e-5},
    'compile_seconds': {'wall': 3.5, 'cpu': 2.5},
  } | changes


@pytest.mark.parametrize('name', NAMES)
def test_slices_have_the_chips_of_their_shape(name):
  chip, chips = slices.parse(name)
  assert chips == math.prod(int(x) for x in name.split(':')[1].split('x'))
  # A chip works and reads faster than it sends.
  assert chip.flops > chip.hbm_rate > chip.ici and chip.hbm >= 16e9
  assert slices.parse(slices.reference(name)) == (chip, 4)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('v7:2x2', r"unknown topology 'v7:2x2': .*v5e: 1x1, 2x2, .*16x16x24"),
    ('16x16', r"unknown topology '16x16': give CHIP:SHAPE, such as v5e:16x16"),
    ('v5e:32x32', r'of 1,024 chips: those of v5e have 1 to 256 chips, 1x1,'),
    ('v5p:4x4', r'of 16 chips: those of v5p have 4 to 6,144 chips, 2x2x1'),
    ('v5e:', r"there is no slice 'v5e:': those of v5e have"),
  ],
)
def test_slices_that_are_not_built(name, message):
  with pytest.raises(ValueError, match=message) as caught:
    slices.parse(name)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      {'topology': 'v5e:16x16', 'batch': 600},
      'batch_size 600 does not divide over the 256 chips of v5e:16x16: use a '
      'multiple of 256, such as --config.batch_size=512 .2 a chip.',
    ),
    (
      {'topology': 'v5e:2x2', 'batch': 6, 'accumulate': 3},
      'batch_size 6 does not divide in 3 parts over the 4 chips .* of 12,',
    ),
    ({'topology': 'v5e:2x2', 'devices': 2}, 'all of its 4 chips: leave out'),
    ({'topology': 'v5e:2x2', 'parallel': 'pmap'}, "'jit', got 'pmap'"),
  ],
)
def test_runs_that_a_slice_cannot_take(arguments, message):
  fields = dict(arguments)
  topology, devices = fields.pop('topology'), fields.pop('devices', None)
  config = vib_run(fields.pop('batch', 8), **fields)
  with pytest.raises(ValueError, match=message):
    dry_run.measure(config, devices, topology)


def test_without_the_compiler(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'dim_jax\[tpu\]'"):
    dry_run.measure(vib_run(8), topology='v5e:2x2')


def test_the_command_compiles_for_a_slice_only_when_dry(tmp_path):
  config = '--config=experiments/configs/vib_digits.py'
  flags = [config, f'--workdir={tmp_path}/run', '--topology=v5e:2x2']
  with pytest.raises(SystemExit, match='give --dry_run too'):
    train_command.main(flags)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'message',
  [
    'E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
    'required for HLO temporaries (16.20G) exceeds available HBM (15.75G)',
    'XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
    'Used 16.20G of 15.75G hbm. Exceeded hbm capacity by 0.45G.',
  ],
)
def test_what_does_not_fit_is_told_in_a_line(message):
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {message}\nmore')

  with pytest.raises(slices.DoesNotFitError) as caught:
    slices.compile_for('v5e:16x16', Lowered())
  text = str(caught.value)
  assert 'a chip of v5e:16x16 has (16.20G of 15.75G): use fewer' in text
  assert '\n' not in text


def test_a_report_in_words():
  base = report(
    flops=98.5e9, seconds={'FLOPs': 1e-3, 'memory': 5e-3, 'interconnect': 0.0}
  )
  scaling = slices.efficiency(report(), base)
  assert scaling == {'FLOPs': 0.5, 'bytes': 1.0, 'step': 0.5}
  lines = dict(slices.lines(report(efficiency=scaling)))
  assert lines['memory'].startswith(
    '1.5 GB of 16 GB on each chip: arguments 2 '
  )
  assert lines['memory'].endswith('program 4 kB; peak 1.6 GB')
  assert lines['collectives'] == (
    '12 all-reduce 3 MB a step, the largest all-reduce of 900 kB; in loops: '
    '10 all-reduce 1 MB'
  )
  assert lines['step'].startswith(
    'at least 10 ms at the peak of the chip, by m'
  )
  assert lines['scaling'].startswith('FLOPs 0.50, bytes 1.00, step 0.50 of 4')
  assert 'none' == slices.communication(
    report(collectives={}, looped={}, largest=None)
  )


def test_a_mesh_of_given_devices():
  given = jax.devices()[2:5]
  assert list(parallel.make_mesh(among=given).devices) == given
  assert list(parallel.make_mesh(2, given).devices) == given[:2]
  with pytest.raises(
    ValueError, match='devices=4, but 3 can be used: give 1 to 3'
  ):
    parallel.make_mesh(4, given)


def gathered(found):
  """Bytes that all-gathers give a device in a step."""
  return found['collectives'].get('all-gather', {'bytes': 0})['bytes']


def test_deep_infomax_gathers_globals_alone():
  found = dry_run.measure(dim_run(64), devices=8)
  # Of each image there are 64 local features, of 16 numbers to the critic.
  assert found['negatives'] == {'mi/local': 63 * 64}
  globals_, locals_ = 4 * 16 * 64, 4 * 16 * 64 * 64
  # The globals travel, a few times over, and the locals stay.
  assert gathered(found) < 8 * globals_ < locals_
  assert not found['looped']
  # The gradient, at least.
  reduced = found['collectives']['all-reduce']['bytes']
  assert reduced >= 4 * sum(found['parameters'].values())


def test_negatives_of_a_device_stay_there():
  found = dry_run.measure(gim_run(16, negatives_of=2), devices=8)
  assert not found['looped'] and not gathered(found)
  assert 'all-reduce' in found['collectives']
  # Of the whole batch, all have all features: of 16 examples, 31 positions
  # (windows of 10, 5 apart, of 160 samples padded by 2) of 4 numbers.
  whole = dry_run.measure(gim_run(16), devices=8)
  assert gathered(whole) >= 4 * 16 * 31 * 4


@pytest.mark.parametrize(('size', 'scales'), [(8, True), (16, False)])
def test_groups_that_four_chips_do_not_hold(monkeypatch, size, scales):
  lowered = []

  def compile_for(name, program):
    lowered.append(name)
    return report()

  monkeypatch.setattr(slices, 'compile_for', compile_for)
  monkeypatch.setattr(
    slices, 'devices', lambda name: jax.devices()[: slices.parse(name)[1]]
  )
  # Of two examples a chip, 8 on four.
  found = dry_run.measure(gim_run(16, negatives_of=size), topology='v5e:2x4')
  assert lowered == ['v5e:2x4', 'v5e:2x2'][: 1 + scales]
  assert ('efficiency' in found['slice']) == scales


@needs_libtpu
@pytest.mark.parametrize('name', ['v5e:4x4', 'v5e:16x16'])
@pytest.mark.parametrize(
  'make', [dim_run, lambda n: gim_run(n, negatives_of=4)], ids=['dim', 'gim']
)
def test_steps_for_sixteen_and_all_chips(make, name):
  found = dry_run.on_slice(make(4 * slices.parse(name)[1]), name)
  assert found['memory']['peak'] < 1e9
  assert gathered(found) < 1e8
  assert not found['looped']


@needs_libtpu
def test_a_step_by_hand_on_a_slice():
  units, batch = 784 * 8, 16
  result = dry_run.measure(vib_run(4 * batch), topology='v5e:2x2')
  one = result['slice']
  assert (one['chips'], result['devices']) == (4, 4)
  assert 'efficiency' not in one
  # One all-reduce of all gradients, in float32, but for a metric or two.
  parameters = sum(result['parameters'].values())
  reduced = one['collectives']['all-reduce']['bytes']
  assert 4 * parameters <= reduced < 4 * parameters + 100
  assert one['sent'] == pytest.approx(2 * 3 / 4 * reduced)
  # The first layer's products: forward, and for the gradient of its weights.
  assert one['flops'] > 2 * 2 * batch * units
  assert 'scaling' not in dry_run.text(result)
