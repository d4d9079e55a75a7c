"""What a compiled program sends between devices, and does in loops.

Read from the text of a compiled program (`jax.stages.Compiled.as_text`), since
XLA's own cost analysis knows no collectives and counts the body of a loop once.
The language: https://openxla.org/xla/operation_semantics
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)
# Where one exchange is spread over several fusions, each of them names it. This
# marks such a part, and the first of them calls that.
_PART = '"async_collective_fusion_config"'
_FIRST_PART = '"AsyncCollectiveStart"'
# Types are named by their bits, as bf16, but for these.
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_COMPUTATION = re.compile(r'(ENTRY )?%?([^\s(]+) \(.*-> .*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([^\s=]+) = (.*)')
_ARRAY = re.compile(r'(\w+)\[([\d,<=]*)\]')
_CALLED = re.compile(
  r'(?:calls|branch_computations|true_computation|false_computation)='
  r'\{?([^},]+(?:, ?%[^},]+)*)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
  """An exchange between devices.

  Attributes:
    kind: one of `COLLECTIVES`; an asynchronous one is of the same kind.
    bytes: of the whole array on one device, once: what an all-gather gives, or
      a reduce-scatter takes.
    group: devices that take part.
    times: how often it runs in one run of the program.
    looped: whether it is in a loop.
  """

  kind: str
  bytes: int
  group: int
  times: int
  looped: bool

  @property
  def sent(self) -> float:
    """Bytes that one device sends in all, by the ring algorithms.

    A lower bound, whatever the network, but for an all-to-all, which takes the
    bandwidth of the bisection too. Thakur, Rabenseifner and Gropp, 2005:
    https://doi.org/10.1177/1094342005051521
    """
    fraction = 1.0
    if self.kind not in ('collective-permute', 'collective-broadcast'):
      fraction = 1 - 1 / self.group
    if self.kind == 'all-reduce':
      fraction *= 2
    return fraction * self.bytes * self.times


class _Instruction(NamedTuple):
  shape: str
  operation: str
  operands: tuple[str, ...]
  rest: str


class _Computation(NamedTuple):
  instructions: dict[str, _Instruction]
  root: str


class _Visit(NamedTuple):
  """An instruction, its computation, how often it runs, and where."""

  instruction: _Instruction
  computation: _Computation
  times: int
  looped: bool


def collectives(text: str, devices: int) -> list[Collective]:
  """Lists the collectives of a program, those in loops multiplied out.

  A loop whose length the text does not tell counts once; so does each branch of
  a condition.

  Args:
    text: the compiled program.
    devices: that it runs on, all of which take part where no groups are named.
  """
  found = []
  for instruction, computation, times, looped in _visits(text):
    kind = instruction.operation.removesuffix('-start')
    if kind not in COLLECTIVES or _goes_on(instruction, computation):
      continue
    group = _group(instruction.rest, devices)
    shape = instruction.shape
    if instruction.operation.endswith('-start') and kind != 'all-reduce':
      shape = _elements(shape)[1]  # After what it takes.
    size = num_bytes(shape)
    if kind == 'reduce-scatter':
      size *= group
    found.append(Collective(kind, size, group, times, looped))
  return found


def summary(text: str, devices: int) -> dict[str, Any]:
  """Adds up the collectives of a program.

  Args:
    text: the compiled program.
    devices: that it runs on.

  Returns:
    'collectives', by kind their 'count' and 'bytes'; 'looped', those of them
    in loops; 'largest', its 'kind' and 'bytes', or None; 'sent', the bytes
    that a device sends in all.
  """
  found = collectives(text, devices)
  largest = max(found, key=lambda x: x.bytes, default=None)
  return {
    'collectives': _by_kind(found),
    'looped': _by_kind([x for x in found if x.looped]),
    'largest': largest and {'kind': largest.kind, 'bytes': largest.bytes},
    'sent': sum(x.sent for x in found),
  }


def _by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
  result: dict[str, dict[str, int]] = {}
  for x in found:
    entry = result.setdefault(x.kind, {'count': 0, 'bytes': 0})
    entry['count'] += x.times
    entry['bytes'] += x.bytes * x.times
  return dict(sorted(result.items()))


def repeated_flops(text: str) -> float:
  """Counts operations of products in loops, beyond the first turn of each.

  These are what XLA's cost analysis leaves out; products of matrices and
  convolutions alone, padding included.
  """
  return sum(
    (visit.times - 1) * _flops(visit.instruction, visit.computation)
    for visit in _visits(text)
  )


def num_bytes(shape: str) -> int:
  """Counts the bytes of a shape as XLA writes it: '(f32[2,3], u8[])'."""
  bits = 0
  for kind, sizes in _ARRAY.findall(_plain(shape)):
    digits = re.findall(r'\d+', kind)
    each = _BITS[kind] if kind in _BITS else int(digits[0])
    bits += each * math.prod(_sizes(sizes))
  return -(-bits // 8)


def _plain(shape: str) -> str:
  """`shape` without layouts and comments, which have brackets of their own."""
  return re.sub(r'\{[^}]*\}|/\*.*?\*/', '', shape)


def _sizes(text: str) -> list[int]:
  return [int(x) for x in re.findall(r'\d+', text)]


def _elements(shape: str) -> list[str]:
  """The parts of a tuple's shape."""
  parts, depth, start = [], 0, 1
  shape = _plain(shape)
  for i, letter in enumerate(shape):
    depth += (letter in '([') - (letter in ')]')
    if (letter == ',' and depth == 1) or (letter == ')' and depth == 0):
      parts.append(shape[start:i].strip())
      start = i + 1
  return parts


def _goes_on(instruction: _Instruction, computation: _Computation) -> bool:
  """Whether a collective is a part of one that another fusion began."""
  return _PART in instruction.rest and not any(
    _FIRST_PART in x.rest for x in computation.instructions.values()
  )


def _group(rest: str, devices: int) -> int:
  """How many devices are in one of the replica groups."""
  if found := re.search(r'replica_groups=mesh\[([^]]*)\] \{([^}]*)\}', rest):
    axes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    # Of a part of an axis, its size is written behind the name: x:(1)2.
    named = re.findall(r"'(\w+)'?(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(size or axes[axis]) for axis, size in named)
  if found := re.search(r'replica_groups=\{\{([\d,]+)\}', rest):
    return len(found[1].split(','))
  if found := re.search(r'replica_groups=\[([\d,]+)\]<=', rest):
    return _sizes(found[1])[-1]
  return devices


def _flops(instruction: _Instruction, computation: _Computation) -> int:
  """Operations of a product, once; 0 of anything else."""
  if instruction.operation not in ('dot', 'convolution'):
    return 0

  def sizes(shape: str) -> list[int]:
    found = _ARRAY.search(_plain(shape))
    return _sizes(found[2]) if found else []

  def operand(i: int) -> list[int]:
    return sizes(computation.instructions[instruction.operands[i]].shape)

  outputs = math.prod(sizes(instruction.shape))
  if instruction.operation == 'dot':
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
    contracted = _sizes(found[1]) if found else []
    return 2 * outputs * math.prod(operand(0)[i] for i in contracted)
  labels = re.search(r'dim_labels=\w*_(\w*)->', instruction.rest)
  if not labels:
    return 0
  kernel = operand(1)
  return 2 * outputs * math.prod(kernel) // kernel[labels[1].index('o')]


def _visits(text: str) -> Iterator[_Visit]:
  """All instructions that run, in loops and in what is called."""
  computations, entry = _parse(text)

  def walk(name: str, times: int, looped: bool) -> Iterator[_Visit]:
    computation = computations[name]
    for instruction in computation.instructions.values():
      yield _Visit(instruction, computation, times, looped)
      operation, rest = instruction.operation, instruction.rest
      if operation == 'while':
        turns = _turns(instruction, computation, computations)
        yield from walk(_attribute(rest, 'body'), times * turns, True)
      # The other ends of an asynchronous call name the same computation.
      elif operation not in ('async-update', 'async-done'):
        for called in _called(operation, rest):
          yield from walk(called, times, looped)

  if entry:
    yield from walk(entry, 1, False)


def _called(operation: str, rest: str) -> list[str]:
  found = [x.strip(' %') for m in _CALLED.findall(rest) for x in m.split(',')]
  if operation == 'call' and not found:
    found = [_attribute(rest, 'to_apply')]
  return found


def _attribute(rest: str, name: str) -> str:
  found = re.search(rf'\b{name}=%?([^\s,]+)', rest)
  return found[1] if found else ''


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
  """Returns the computations by name, and the name of the first to run."""
  computations: dict[str, _Computation] = {}
  entry, name, root = '', '', ''
  instructions: dict[str, _Instruction] = {}
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      name, root, instructions = header[2], '', {}
      entry = name if header[1] else entry
    elif line.startswith('}'):
      computations[name] = _Computation(instructions, root)
    elif found := _INSTRUCTION.match(line):
      root = found[2] if found[1] else root
      instructions[found[2]] = _instruction(found[3])
  return computations, entry


def _instruction(text: str) -> _Instruction:
  """Splits 'SHAPE OPERATION(OPERANDS), ATTRIBUTES'."""
  end = _closing(text) + 1 if text.startswith('(') else text.index(' ')
  shape, text = text[:end], text[end:].lstrip()
  operation, _, text = text.partition('(')
  end = _closing(f'({text}') - 1
  names = re.sub(r'/\*.*?\*/', '', text[:end])
  if operation not in ('constant', 'parameter'):
    # An operand may be written with its shape before it.
    names = re.sub(r'[\[{(][^\]})]*[\]})]', '', names)
  operands = tuple(
    part.split()[-1].lstrip('%') for part in names.split(',') if part.split()
  )
  return _Instruction(shape, operation, operands, text[end:])


def _closing(text: str) -> int:
  """Where the bracket closes with which `text` begins."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return i
  return len(text)


def _turns(
  loop: _Instruction,
  outside: _Computation,
  computations: dict[str, _Computation],
) -> int:
  """How often a loop turns: what XLA noted, else what its condition says."""
  if noted := _TRIPS.search(loop.rest):
    return int(noted[1])
  condition = computations[_attribute(loop.rest, 'condition')]
  compare = condition.instructions[condition.root]
  if compare.operation == 'fusion':
    # The comparison of its parameters, in the order of the operands.
    inner = computations[_attribute(compare.rest, 'calls')]
    root = inner.instructions[inner.root]
    numbers = [
      int(x.operands[0]) if x.operation == 'parameter' else -1
      for x in (inner.instructions[name] for name in root.operands)
    ]
    if -1 in numbers:
      return 1
    operands = tuple(compare.operands[i] for i in numbers)
    compare = root._replace(operands=operands)
  if compare.operation != 'compare':
    return 1
  index = _index(condition, compare.operands[0])
  bound = _constant(condition, compare.operands[1])
  first = outside.instructions[loop.operands[0]].operands
  if bound is None:
    # What the loop carries along.
    carried = _index(condition, compare.operands[1])
    if carried is not None and carried < len(first):
      bound = _constant(outside, first[carried])
  if bound is None or index is None:
    return 1
  # JAX counts from 0 by 1, unless the text tells otherwise.
  start = _constant(outside, first[index]) if index < len(first) else 0
  extra = 'direction=LE' in compare.rest
  return max(0, bound - (start or 0) + extra)


def _index(computation: _Computation, name: str) -> int | None:
  """Which element of the loop's state a value is; None if it is none."""
  instruction = computation.instructions[name]
  while instruction.operation in ('copy', 'bitcast', 'convert'):
    instruction = computation.instructions[instruction.operands[0]]
  if instruction.operation != 'get-tuple-element':
    return None
  return int(_attribute(instruction.rest, 'index'))


def _constant(computation: _Computation, name: str) -> int | None:
  """The value of a constant whole number; None if it is none."""
  instruction = computation.instructions[name]
  while instruction.operation in ('copy', 'bitcast', 'convert'):
    instruction = computation.instructions[instruction.operands[0]]
  if instruction.operation != 'constant':
    return None
  with_sign = re.fullmatch(r'-?\d+', ''.join(instruction.operands))
  return int(with_sign[0]) if with_sign else None
