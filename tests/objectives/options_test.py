"""Every option of every method has a sentence, a range and a flag."""

import ast
import dataclasses
import inspect
import itertools
import typing

import pytest

from dim_jax import config as config_lib
from dim_jax.config import ExperimentConfig
from dim_jax.objectives import (
  autoencoder,
  bigan,
  dim,
  energy_model,
  gim,
  masked_lines,
  nat,
  paired_lines,
  tagging,
  vib,
)
from dim_jax.runs import overrides

METHODS = (
  autoencoder,
  bigan,
  dim,
  energy_model,
  gim,
  masked_lines,
  nat,
  paired_lines,
  tagging,
  vib,
)


def fields_of(kind, path='objective'):
  """The path, type hint and default of each field, of those in groups too."""
  for field in dataclasses.fields(kind):
    hint = typing.get_type_hints(kind)[field.name]
    where = f'{path}.{field.name}'
    kinds = (hint, *typing.get_args(hint))
    groups = [t for t in kinds if dataclasses.is_dataclass(t)]
    if groups:
      yield from fields_of(groups[0], where)
    else:
      yield where, kind, field


FIELDS = [
  pytest.param(method, *found, id=f'{method.__name__[19:]}-{found[0]}')
  for method in METHODS
  for found in fields_of(method.Config)
]


@pytest.mark.parametrize(('method', 'path', 'kind', 'field'), FIELDS)
def test_a_flag_sets_it(method, path, kind, field):
  config = ExperimentConfig(objective=method.Config())
  overrides.apply(config, {path: str(field.default)})
  value = config
  for name in path.split('.'):
    value = getattr(value, name)
  assert value == field.default
  # And an old or new run's JSON brings it back.
  assert config_lib.from_json(config_lib.to_json(config)) == config


@pytest.mark.parametrize(
  ('method', 'path', 'kind', 'field'),
  [p for p in FIELDS if isinstance(p.values[3].default, int | float)],
)
def test_no_number_may_be_nan_or_negative_without_end(
  method, path, kind, field
):
  if isinstance(field.default, bool):
    pytest.skip('it is no number')
  for bad in (float('nan'), float('-inf')):
    config = ExperimentConfig(objective=method.Config())
    overrides.apply(config, {path: str(field.default)})
    *parents, name = path.split('.')
    owner = config
    for parent in parents:
      owner = getattr(owner, parent)
    setattr(owner, name, bad)
    with pytest.raises(ValueError, match=name):
      method.check(config.objective)


@pytest.mark.parametrize(
  'kind', sorted({p.values[2] for p in FIELDS}, key=str), ids=str
)
def test_it_is_explained(kind):
  body = ast.parse(inspect.getsource(kind)).body[0].body
  for statement, after in itertools.pairwise(body):
    if isinstance(statement, ast.AnnAssign):
      assert isinstance(after, ast.Expr), ast.unparse(statement)
