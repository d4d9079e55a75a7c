"""A file of arrays and JSON, which outlives the program that wrote it.

An ordinary .npz, read with NumPy alone:

  file = np.load('encoder.npz')
  header = json.loads(str(file['json']))
  kernel = file['params/encoder/conv_0/kernel']

Names of arrays are paths in a tree of dictionaries. The header's 'dtypes' names
the type of every array that NumPy has no type for: one like bfloat16 is stored
as the unsigned integers of its bits, and a random key as its data. 'checksum'
is SHA-256 over the header without it and all arrays; see `checksum`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dim_jax import files

FORMAT = 'dim_jax encoder'
VERSION = 1


def write(
  path: str | os.PathLike, header: Mapping[str, Any], tree: Mapping[str, Any]
) -> None:
  """Writes a file, whole or not at all.

  Args:
    path: the file, which must not be there yet.
    header: JSON data.
    tree: dictionaries and tuples of arrays.

  Raises:
    FileExistsError: the file is there.
    ValueError: the tree holds something else.
  """
  path = os.fspath(path)
  if os.path.exists(path):
    raise FileExistsError(
      f'{path!r} exists already: choose another name, or delete it first.'
    )
  containers: dict[str, str] = {}
  dtypes: dict[str, str] = {}
  flat = traverse_util.flatten_dict(_as_dicts(tree, '', containers), sep='/')
  arrays = {name: _stored(x, name, dtypes) for name, x in flat.items()}
  # As they will be read, for the checksum.
  full = {'format': FORMAT, 'format_version': VERSION, **header}
  full |= {'dtypes': dtypes, 'containers': containers}
  full = json.loads(json.dumps(full))
  full['checksum'] = checksum(full, arrays)
  # Any: NumPy 2.0 has no `allow_pickle` here, which its later hints reserve.
  stored: Any = {'json': np.array(json.dumps(full, indent=1)), **arrays}
  with files.replacing(path, 'wb', sync=True) as file:
    np.savez(file, **stored)


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads what `write` wrote.

  Args:
    path: the file.

  Returns:
    The header, and the tree.

  Raises:
    ValueError: the file is damaged, of something else, or of a later format.
  """
  path = os.fspath(path)
  with open(path, 'rb') as file:
    start = file.read(4)
    if start != b'PK\x03\x04':
      raise ValueError(
        f'{path!r} is no exported encoder, as its first bytes are {start!r}: '
        'give a file that `Encoder.export` wrote, or the --workdir of a run.'
      )
    file.seek(0)
    try:
      with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
      raise ValueError(
        f'{path!r} is damaged or cut short ({error}): copy or export it again.'
      ) from error
  try:
    header = json.loads(str(arrays.pop('json')))
    if header['format'] != FORMAT:
      raise ValueError(f'its format is {header["format"]!r}')
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path!r} is no exported encoder but some other .npz: it has the arrays '
      f'{sorted(arrays)[:4]} and no header of {FORMAT!r}.'
    ) from error
  if header['format_version'] > VERSION:
    raise ValueError(
      f'{path!r} has version {header["format_version"]} of the format, this '
      f'dim_jax reads versions up to {VERSION}: install a later dim_jax.'
    )
  if checksum(header, arrays) != header.get('checksum'):
    raise ValueError(
      f'{path!r} is damaged: its checksum is not that of what it holds; copy '
      'or export it again.'
    )
  return header, _nest(arrays, header)


def checksum(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
  """Computes SHA-256, in hexadecimal, of all that a file holds.

  Of the header less 'checksum', as JSON with sorted keys and Python's default
  separators; then of each array, by its name, 'NAME DTYPE SHAPE' such as
  'params/encoder/y/bias <f4 (64,)', and its bytes, little-endian in C order.

  Args:
    header: JSON data.
    arrays: by name.
  """
  rest = {k: v for k, v in header.items() if k != 'checksum'}
  digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
  for name in sorted(arrays):
    x = np.ascontiguousarray(arrays[name]).reshape(np.shape(arrays[name]))
    x = x.astype(x.dtype.newbyteorder('<'), copy=False)
    digest.update(f'{name} {x.dtype.str} {x.shape}'.encode())
    digest.update(x.tobytes())
  return digest.hexdigest()


def _as_dicts(tree: Any, path: str, containers: dict[str, str]) -> Any:
  """Makes tuples dictionaries, and notes them and what is empty by path."""
  if isinstance(tree, tuple) and not hasattr(tree, '_fields'):
    containers[path] = 'tuple'
    tree = {str(i): x for i, x in enumerate(tree)}
  if not isinstance(tree, Mapping):
    return tree
  if not tree:
    containers.setdefault(path, 'dict')
  if bad := [key for key in tree if '/' in str(key)]:
    raise ValueError(
      f"{path!r} holds {bad[0]!r}: no key may have a '/', which paths have."
    )
  return {
    str(key): _as_dicts(x, f'{path}/{key}' if path else str(key), containers)
    for key, x in tree.items()
  }


def _stored(x: Any, path: str, dtypes: dict[str, str]) -> np.ndarray:
  """An array as NumPy stores it; notes a dtype that NumPy does not have."""
  is_array = isinstance(x, jax.Array | np.ndarray | np.generic)
  if not is_array or x.dtype == object:
    raise ValueError(
      f'{path!r} is a {type(x).__name__}: only trees of dictionaries, tuples '
      'and arrays are stored.'
    )
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    dtypes[path] = str(jax.random.key_impl(x))
    x = jax.random.key_data(x)
  x = np.asarray(x)
  if x.dtype.isbuiltin == 2:  # Of a package, not of NumPy.
    dtypes[path] = x.dtype.name
    x = x.view(f'u{x.dtype.itemsize}')
  return x


def _nest(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Any:
  """Makes the tree of what `write` stored, with arrays on the device."""
  flat: dict[str, Any] = {
    path: _restored(x, header['dtypes'].get(path)) for path, x in arrays.items()
  }
  # Inner containers first, as what is outside takes them in as they are then.
  for path in sorted(header['containers'], key=len, reverse=True):
    if header['containers'][path] == 'dict':
      flat[path] = {}
      continue
    inside = {k: v for k, v in flat.items() if k.startswith(f'{path}/')}
    flat = {k: v for k, v in flat.items() if k not in inside}
    parts = traverse_util.unflatten_dict(
      {k.removeprefix(f'{path}/'): v for k, v in inside.items()}, sep='/'
    )
    flat[path] = tuple(parts[str(i)] for i in range(len(parts)))
  return traverse_util.unflatten_dict(flat, sep='/')


def _restored(x: np.ndarray, dtype: str | None) -> jax.Array:
  if dtype is None:
    return jnp.asarray(x)
  if hasattr(jnp, dtype):
    return jnp.asarray(x.view(jnp.dtype(dtype)))
  return jax.random.wrap_key_data(jnp.asarray(x), impl=dtype)
