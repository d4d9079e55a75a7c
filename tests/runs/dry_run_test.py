"""What a dry run says, against counts by hand."""

import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dim_jax import config as config_lib
from dim_jax.networks import context, greedy_modules
from dim_jax.objectives import gim, vib
from dim_jax.runs import dry_run

ROOT = pathlib.Path(__file__).parents[2]


def test_counts_of_a_network_by_hand():
  config = config_lib.ExperimentConfig(
    objective=vib.Config(
      units=(256,), code=32, beta=1e-2, covariance='diagonal', num_classes=10
    ),
    data=config_lib.DataConfig(name='mnist', validation=0.1),
    batch_size=200,
    steps=540,
  )
  config.data.image_size = None
  report = dry_run.measure(config, devices=2)
  # Means and deviations of 32 dimensions; weights and biases.
  first, last, readout = 784 * 256, 256 * 64, 32 * 10
  assert report['parameters'] == {
    'encoder': first + 256 + last + 64,
    'decoder': readout + 10,
  }
  assert report['shape'] == (28, 28, 1) and report['dtype'] == 'uint8'
  assert report['examples'] == 54_000
  # Two operations a weight and image, forward, for the weights' gradient, and
  # for the input's, which the first layer does not need. Adam, the noise and
  # what is elementwise are the rest, a few operations a weight or unit.
  products = 2 * 200 * (2 * first + 3 * last + 3 * readout)
  assert 1 < report['flops'] / products < 1.1
  # Parameters with two moments, and the images, on each device.
  held = 4 * 3 * sum(report['parameters'].values()) + 54_000 * (784 + 4)
  memory = dict(report['memory'])
  assert memory['state and data'] == pytest.approx(held, rel=1e-3)
  total = memory.pop('total')
  assert sum(memory.values()) == total
  assert report['ceilings'] == {'information on the label': math.log(10)}
  assert report['negatives'] == {}
  lines = dry_run.text(report).splitlines()
  assert '28 x 28 x 1 uint8, 54,000 to train on' in lines[0]
  # 540 steps of 200 images.
  assert '(2.0 epochs) on 2 x cpu' in lines[1]
  assert f'{first + 256 + last + 64 + readout + 10:,}' in lines[2]
  assert 'at most 2.303 nats' in lines[-1]


def test_negatives_and_ceiling_of_a_contrast():
  config = config_lib.ExperimentConfig(
    objective=gim.Config(
      modules=(greedy_modules.ConvModule(4, 10, 5, 2), context.GRU(3)),
      offsets=2,
      negatives=7,
      window=16,
      num_classes=2,
    ),
    # There is no such folder: nothing looks into it.
    data=config_lib.SoundConfig(name='./nowhere', window=160),
    batch_size=4,
    steps=4,
  )
  report = dry_run.measure(config, devices=1)
  terms = ('module_0/infonce', 'module_1/infonce')
  assert report['negatives'] == dict.fromkeys(terms, 7)
  assert report['ceilings'] == dict.fromkeys(terms, math.log(8))
  assert report['examples'] is None
  text = dry_run.text(report)
  assert './nowhere: 160 int16, as many as there are' in text
  assert (
    'module_1/infonce  7 negatives an anchor, of 4 examples, at most 2.079 nats'
  ) in text


@pytest.mark.parametrize(
  ('data', 'stored', 'seen', 'count'),
  [
    # Nine tenths of 1,438; they are enlarged whether a size is asked or not.
    ({'name': 'digits', 'image_size': None}, (32, 32, 1), (32, 32, 1), 1294),
    ({'name': 'cifar10', 'crop': 24}, (32, 32, 3), (24, 24, 3), 45_000),
    (
      {'name': 'stl10', 'image_size': 64, 'grayscale': True, 'validation': 0},
      (64, 64, 1),
      (64, 64, 1),
      5_000,
    ),
    (
      {'name': 'stl10', 'image_size': None, 'unlabelled': True},
      (96, 96, 3),
      (96, 96, 3),
      100_000,
    ),
  ],
)
def test_shapes_of_known_images(data, stored, seen, count):
  found = dry_run.shapes(config_lib.DataConfig(**data))
  assert (found.stored, found.seen, found.examples) == (stored, seen, count)
  assert found.dtype == np.uint8 and found.labelled


def test_shape_of_a_folder_is_that_of_its_first_image(tmp_path):
  for label in 'ab':
    (tmp_path / label).mkdir()
    for i in range(10):
      Image.new('RGB', (6, 5)).save(tmp_path / label / f'{i}.png')
  config = config_lib.DataConfig(
    name=str(tmp_path), image_size=None, validation=0.25
  )
  # A fifth of each class is the test set, a quarter of the rest held out.
  assert dry_run.shapes(config)[:2] == ((5, 6, 3), (5, 6, 3))
  assert dry_run.shapes(config).examples == 12
  config.unlabelled = True
  with pytest.raises(ValueError, match="has no folder 'unlabelled'"):
    dry_run.shapes(config)
  config.name = 'digits'
  with pytest.raises(ValueError, match="got the data set 'digits'"):
    dry_run.shapes(config)
  config.name, config.unlabelled = str(tmp_path / 'c'), False
  with pytest.raises(FileNotFoundError, match='no folder'):
    dry_run.shapes(config)


def test_shape_of_points():
  found = dry_run.shapes(config_lib.PointConfig(name='mixture_2d', count=100))
  assert found == ((2,), (2,), np.float32, 90, False)


def test_the_command_needs_neither_a_folder_nor_the_data(tmp_path):
  command = [
    sys.executable,
    '-m',
    'experiments.train',
    '--dry_run',
    '--devices=1',
    '--config=vib_mnist',
    '--config.objective.units=(8,)',
  ]
  environment = dict(os.environ, TFDS_DATA_DIR=str(tmp_path / 'nothing'))
  result = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('data ')
  assert 'mnist: 28 x 28 x 1 uint8' in result.stdout
