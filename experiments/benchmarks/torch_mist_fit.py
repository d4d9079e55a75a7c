"""An estimate of torch-mist as it comes, for `mi_fit`.

Needs torch-mist and pandas, which it imports without declaring it.
"""

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import sys
import time

import numpy as np
import torch
import torch_mist


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--threads', type=int, default=2)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  versions = {
    name: importlib.metadata.version(name) for name in ('torch-mist', 'torch')
  }
  print(json.dumps({'versions': versions}), flush=True)
  for line in sys.stdin:
    draw = int(line.split()[0])
    with np.load(args.folder / f'{draw}.npz') as given:
      arrays = {name: given[name].astype(np.float32) for name in given.files}
    torch.manual_seed(0)
    start, began = time.process_time(), time.perf_counter()
    # What it prints would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
      value = torch_mist.estimate_mi(
        data=(arrays['x'], arrays['y']),
        test_data=(arrays['report_x'], arrays['report_y']),
        verbose=False,
        logger=False,
      )
    answer = {
      'value': float(value[0] if isinstance(value, tuple) else value),
      'cpu_s': time.process_time() - start,
      'wall_s': time.perf_counter() - began,
    }
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
