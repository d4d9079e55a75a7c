"""What each of two processes does for `hosts_test`; a program of its own.

It writes what it saw to FOLDER/PROCESS.json. The parts follow one another in
one pair, since starting a pair takes longer than any of them.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np

import dim_jax
from dim_jax import config as config_lib
from dim_jax.config import DataConfig, ExperimentConfig, OptimizerConfig
from dim_jax.data import stream
from dim_jax.objectives import vib
from dim_jax.runs import train
from dim_jax.training import feed, hosts, parallel, timing

BATCH, STEPS, EXAMPLES = 16, 6, 100


def get_config():
  return ExperimentConfig(
    objective=vib.Config(units=(8,), code=4, beta=1e-2),
    data=DataConfig(name='digits', image_size=8),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    batch_size=BATCH,
    steps=STEPS,
    log_every=3,
    checkpoint_every=3,
  )


def other_model():
  config = get_config()
  objective = dataclasses.replace(config.objective, units=(9,))
  return dataclasses.replace(config, objective=objective)


def run(folder, config, **options):
  return train.train(config, str(folder), show_progress=False, **options)


def refusal(action):
  try:
    action()
  except (ValueError, OSError) as error:
    return str(error)
  return ''


def refusals(folder, process):
  """One line for each thing in which processes can differ, on all of them."""
  config = get_config()
  other = dataclasses.replace(config, seed=process)
  data = stream.of_arrays({'image': np.arange(5) + process})
  as_json = config_lib.to_json(config)
  own = folder / f'disk_{process}'
  own.mkdir()
  return {
    'config': refusal(lambda: run(folder / 'a', other)),
    'data': refusal(lambda: hosts.check(folder, as_json, data)),
    'folder': refusal(
      lambda: hosts.check(own, as_json, stream.of_arrays({'x': np.arange(5)}))
    ),
    'devices': refusal(lambda: run(folder / 'b', config, devices=4)),
    'batch': refusal(
      lambda: run(folder / 'c', dataclasses.replace(config, batch_size=12))
    ),
    'model': refusal(lambda: run(folder / 'one', other_model())),
    'checkpoint': refusal(lambda: run(folder / 'mixed', other_model())),
  }


def order(data):
  """The examples [steps, columns] that this process's devices see."""
  mesh = parallel.make_mesh()
  examples = feed.Feed(data, BATCH, (0,), mesh)
  with timing.Times() as times:
    examples.start(0, STEPS)
    rows, _ = examples.advance(see, None, 0, STEPS, times)
    examples.close()
  return {
    str(shard.index[1].start): np.asarray(shard.data).tolist()
    for shard in rows.addressable_shards
  }


def see(_, data, rows):
  """In place of steps: which examples they would be of."""
  return (rows if data else rows['number']), {}


def main():
  folder, where, part = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
  hosts.join(where)
  parallel.cache_compilations()
  process = jax.process_index()
  result = {'devices': [jax.local_device_count(), jax.device_count()]}
  if part == 'agree':
    numbers = {'number': np.arange(EXAMPLES)}
    result |= {
      'refused': refusals(folder, process),
      'memory': order(numbers),
      'stream': order(stream.of_arrays(numbers)),
    }
    config = get_config()
    run(folder / 'two', config)
    streamed = dataclasses.replace(config.data, stream=True)
    run(
      folder / 'one',
      dataclasses.replace(config, data=streamed, steps=2 * STEPS),
    )
    if process == 1:
      # A reader waits for nobody.
      result['read'] = dim_jax.load(str(folder / 'one')).step
  (folder / f'{process}.json').write_text(json.dumps(result))
  if part == 'signal':
    # Endless, for all that the test waits for.
    config = dataclasses.replace(
      get_config(), steps=99_999, checkpoint_every=3000
    )
    try:
      run(folder / 'two', config)
    except RuntimeError as error:
      hosts.end(f'Error: {error}', unsure=True)


if __name__ == '__main__':
  main()
