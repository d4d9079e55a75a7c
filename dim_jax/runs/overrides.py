"""Fields of a config, set by their path and a text: 'data.name', 'mnist'.

ml_collections does it for plain fields; it refuses None, and fields of more
than one type (`str | nn.Module`), of which there are many here.
"""

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from dim_jax import config as config_lib

_BOOLS = {'true': True, '1': True, 'false': False, '0': False}
_WORDS = {int: 'a whole number', float: 'a number', bool: 'True or False'}


def apply(config: Any, overrides: Mapping[str, str]) -> Any:
  """Sets fields of a config.

  Args:
    config: a dataclass; it is changed, and so are those inside it, but for
      frozen ones such as Flax modules, which are replaced.
    overrides: texts by path. A path may lead into a nested config that is None,
      which then has its defaults otherwise, and into an entry of a dictionary
      of configs that is not there yet; one of `groups` is otherwise as the
      optimizer of all other groups.

  Returns:
    The config.

  Raises:
    ValueError: there is no such field, or it does not take the text.
  """
  # A group's optimizer starts as that of all others, which may be set too.
  for path in sorted(overrides, key=lambda path: 'groups' in path.split('.')):
    config = _set(config, path, path.split('.'), Any, overrides[path])
  return config


def _set(value: Any, path: str, names: list[str], hint: Any, text: str) -> Any:
  """Returns `value` with what lies at `names` replaced by `text`, parsed."""
  if not names:
    return _parse(path, hint, text, value)
  name, *rest = names
  if value is None:
    value = _default(hint)
  if isinstance(value, dict):
    inner = (typing.get_args(hint) or (str, Any))[1]
    if name not in value and (not rest or _default(inner) is None):
      config_lib.check_path(value, name)
    value[name] = _set(value.get(name), path, rest, inner, text)
    return value
  moved = _today(type(value), name)
  # A nested config may have the name that one of its fields had before.
  if moved and not (name in vars(value) and (rest or text == 'None')):
    today = '.'.join([*path.split('.')[: -len(names)], moved, *rest])
    raise ValueError(
      f'--config.{path} has another name: --config.{today}={text}'
    )
  try:
    config_lib.check_path(value, name)
  except ValueError as error:
    raise ValueError(f'--config.{path}: {error}') from error
  inner = typing.get_type_hints(type(value)).get(name, Any)
  if isinstance(value, config_lib.ExperimentConfig) and name == 'groups':
    if len(rest) > 1 and rest[0] not in value.groups:
      value.groups[rest[0]] = dataclasses.replace(value.optimizer)
  new = _set(getattr(value, name), path, rest, inner, text)
  # Modules are not marked as frozen, and are all the same.
  frozen = type(value).__dataclass_params__.frozen
  if frozen or isinstance(value, nn.Module):
    return dataclasses.replace(value, **{name: new})
  setattr(value, name, new)
  return value


def _today(kind: type, name: str) -> str | None:
  """Finds where a field of an older version is now; None if it never was."""
  key = f'{kind.__module__}:{kind.__qualname__}'
  if moved := config_lib.FIELDS.get(key, {}).get(name):
    return moved
  for group in config_lib.GROUPS.get(key, ()):
    if name in group.names:
      return f'{group.field}.{group.names[name]}'
  return None


def _default(hint: Any) -> Any:
  """Returns the defaults of the dataclass that a field may hold, or None."""
  for kind in _members(hint):
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
      return kind()
  return None


def _members(hint: Any) -> tuple[Any, ...]:
  """Lists the types of a union; of another type, itself."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return typing.get_args(hint)
  return (hint,)


def _parse(path: str, hint: Any, text: str, old: Any = None) -> Any:
  """Reads the value of the field at `path`, or raises ValueError.

  Where its type is `Any`, the kind of the `old` value tells what the text is;
  else it is a literal of Python, or a word.
  """
  members = _members(hint)
  if members == (Any,):
    if isinstance(old, bool | int | float) and text != 'None':
      return _parse(path, type(old), text)
    try:
      return ast.literal_eval(text)
    except (SyntaxError, ValueError):
      return text
  if type(None) in members and text == 'None':
    return None
  for kind in members:
    try:
      return _read(kind, text)
    except (KeyError, SyntaxError, TypeError, ValueError):
      continue
  if dataclasses.is_dataclass(old):
    # Of several kinds of config, the one that the field holds.
    members = tuple(
      kind
      for kind in members
      if kind is type(old) or not dataclasses.is_dataclass(kind)
    )
  accepted = ' or '.join(
    'None' if kind is type(None) else _WORDS.get(kind) or _name(kind, path)
    for kind in members
  )
  named = dataclasses.is_dataclass(old) and hasattr(old, 'name')
  hint = f' Did you mean --config.{path}.name={text}?' if named else ''
  raise ValueError(f'--config.{path} takes {accepted}, got {text!r}.{hint}')


def _name(kind: Any, path: str) -> str:
  if dataclasses.is_dataclass(kind):
    fields = ', '.join(f'.{field.name}' for field in dataclasses.fields(kind))
    return f'values of its fields, --config.{path} with {fields}'
  name = kind if typing.get_origin(kind) else getattr(kind, '__name__', kind)
  return str(name).replace('typing.', '')


def _read(kind: Any, text: str) -> Any:
  """Reads one type; raises where the text is of another."""
  origin = typing.get_origin(kind)
  if kind is bool:
    return _BOOLS[text.lower()]
  if kind in (int, float, str):
    return kind(text)
  if origin is tuple or kind is tuple:
    inner = (*typing.get_args(kind), Any)[0]
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      value = tuple(text.split(','))  # Names need no quotes.
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(_element(inner, x) for x in value)
  if origin is typing.Literal and text in typing.get_args(kind):
    return text
  raise TypeError(kind)


def _element(kind: Any, value: Any) -> Any:
  """Checks an element of a tuple; whole numbers are numbers too."""
  if kind not in (int, float, str):
    return value
  if isinstance(value, bool) or not isinstance(
    value, (int, float) if kind is float else kind
  ):
    raise TypeError(value)
  return kind(value)
