"""What the PyTorch sides share: their flags, and how they take turns.

A side is a process of its own: after a few steps to warm up it says so in a
JSON line; then, for each number of steps on a line of standard input, it takes
them and answers with seconds a step.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def parser(doc: str | None, batch_size: int) -> argparse.ArgumentParser:
  """Makes the flags of all sides.

  Args:
    doc: the module's docstring.
    batch_size: the default.
  """
  parser = argparse.ArgumentParser(description=(doc or '').split('\n')[0])
  parser.add_argument('--batch_size', type=int, default=batch_size)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--compile', action='store_true', help='torch.compile')
  return parser


def start(threads: int, seed: int = 0) -> dict[str, str]:
  """Sets threads and seed, before networks are made; returns the versions."""
  torch.set_num_threads(threads)
  torch.manual_seed(seed)
  return {'torch': torch.__version__, 'python': sys.version.split()[0]}


def compiled(args: argparse.Namespace, module: nn.Module) -> Any:
  """Returns the module as `--compile` asks for; its parameters stay its own."""
  return torch.compile(module) if args.compile else module


def serve(
  step: Callable[[], Any],
  modules: list[nn.Module],
  versions: dict[str, str],
  warm_up: int = 1,
) -> None:
  """Takes steps when asked, until standard input ends.

  Args:
    step: takes one.
    modules: whose parameters are counted.
    versions: what `start` returned.
    warm_up: steps before the first answer.
  """
  for _ in range(warm_up):
    step()
  ready = {
    'parameters': sum(p.numel() for m in modules for p in m.parameters()),
    'versions': versions,
  }
  print(json.dumps(ready), flush=True)
  for line in sys.stdin:
    steps = int(line)
    begin = time.perf_counter()
    for _ in range(steps):
      step()
    print(json.dumps((time.perf_counter() - begin) / steps), flush=True)
