"""Fields of configs that are set by a text: of every type, and None."""

import dataclasses
from typing import Any

import pytest

from dim_jax.config import ExperimentConfig, OptimizerConfig
from dim_jax.networks import encoders
from dim_jax.objectives import dim, gim, vib
from dim_jax.runs import overrides


@dataclasses.dataclass
class Group:
  size: int = 3


@dataclasses.dataclass
class Config:
  whole: int = 1
  optional: float | None = None
  switch: bool = False
  sizes: tuple[int, ...] = (1,)
  names: tuple[str, ...] = ()
  either: str | int = 'a'
  anything: Any = None
  group: Group | None = None
  groups: dict[str, Group] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
  ('path', 'text', 'expected'),
  [
    ('whole', '12', 12),
    ('optional', '1e-3', 1e-3),
    ('optional', 'None', None),
    ('switch', 'true', True),
    ('switch', 'False', False),
    ('sizes', '(8, 4)', (8, 4)),
    ('sizes', '8,4', (8, 4)),
    ('sizes', '8', (8,)),
    ('names', 'fc,y', ('fc', 'y')),
    ('names', "('fc',)", ('fc',)),
    ('either', '3', '3'),
    ('anything', 'resnet19_32', 'resnet19_32'),
    ('anything', '0.5', 0.5),
    ('anything', 'None', None),
    ('group', 'None', None),
  ],
)
def test_a_text_becomes_a_value_of_the_fields_type(path, text, expected):
  found = getattr(overrides.apply(Config(), {path: text}), path)
  assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize('rate_first', [True, False])
def test_a_group_of_parameters_is_otherwise_as_all_others(rate_first):
  config = ExperimentConfig(
    objective=dim.Config(),
    optimizer=OptimizerConfig(learning_rate=3e-3, b1=0.9),
  )
  texts = {'groups.adversary.every': '5', 'optimizer.learning_rate': '1e-2'}
  names = sorted(texts, reverse=rate_first)
  found = overrides.apply(config, {name: texts[name] for name in names})
  assert found.groups == {
    'adversary': OptimizerConfig(learning_rate=1e-2, b1=0.9, every=5)
  }
  assert found.groups['adversary'] is not found.optimizer
  assert found.optimizer.every == 1
  overrides.apply(found, {'groups.adversary.b1': '0.5'})
  assert found.groups['adversary'].every == 5


def test_a_group_that_is_not_there_is_made_with_its_defaults():
  config = overrides.apply(Config(), {'group.size': '5', 'groups.a.size': '6'})
  assert config.group == Group(5) and config.groups == {'a': Group(6)}


@pytest.mark.parametrize(
  ('path', 'text', 'message'),
  [
    ('whole', 'many', "--config.whole takes a whole number, got 'many'"),
    ('whole', '1.5', 'takes a whole number'),
    ('whole', 'None', 'takes a whole number'),
    ('optional', 'x', "takes a number or None, got 'x'"),
    ('switch', 'maybe', 'takes True or False'),
    ('sizes', '(1.5,)', r'takes tuple\[int'),
    ('wohle', '1', "Did you mean 'whole'"),
    ('group.wide', '1', "No field 'wide': Group has"),
    ('group', '3', r'fields, --config\.group with \.size or None'),
  ],
)
def test_what_a_field_does_not_take_is_named(path, text, message):
  with pytest.raises(ValueError, match=message):
    overrides.apply(Config(), {path: text})


def test_a_group_of_several_kinds_lists_the_fields_of_the_one_it_holds():
  config = ExperimentConfig(objective=dim.Config())
  with pytest.raises(
    ValueError, match=r'mean --config\.data\.name=digits'
  ) as error:
    overrides.apply(config, {'data': 'digits'})
  assert '.image_size' in str(error.value) and '.window' not in str(error.value)


def test_fields_that_take_a_name_or_a_module_take_a_name_by_flag():
  for objective, field, name in (
    (dim.Config(), 'encoder', 'resnet19_32'),
    (vib.Config(encoder='basic28'), 'encoder', 'mlp'),
    (gim.Config(), 'modules', 'patch_small'),
  ):
    config = ExperimentConfig(objective=objective)
    overrides.apply(config, {f'objective.{field}': name})
    assert getattr(config.objective, field) == name


def test_a_module_is_replaced_and_not_changed():
  encoder = encoders.MLPCode(units=(8,), code=4)
  config = ExperimentConfig(
    objective=dim.Config(encoder=encoder),
    groups={'probe': OptimizerConfig(learning_rate=1.0)},
  )
  overrides.apply(
    config,
    {'objective.encoder.code': '5', 'groups.probe.learning_rate': '0.1'},
  )
  assert config.objective.encoder.code == 5 and encoder.code == 4
  assert config.groups['probe'].learning_rate == 0.1


def test_a_field_of_an_older_version_names_todays():
  config = ExperimentConfig(objective=dim.Config())
  with pytest.raises(
    ValueError,
    match=r'another name: --config\.objective\.prior\.spectral_norm=None',
  ):
    overrides.apply(config, {'objective.spectral_norm': 'None'})
  with pytest.raises(ValueError, match=r'objective\.mask\.kind=token$'):
    overrides.apply(config, {'objective.mask': 'token'})
  overrides.apply(config, {'objective.mask.kind': 'drop'})
  assert config.objective.mask.kind == 'drop'
  overrides.apply(config, {'objective.mask': 'None'})
  assert config.objective.mask is None
  overrides.apply(config, {'objective.prior.spectral_norm': 'None'})
  assert config.objective.prior.spectral_norm is None
