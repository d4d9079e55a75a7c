"""The peer of `time_to_accuracy`: the same training run in PyTorch.

The networks and the loss are those of `torch_dim`, DIM(L) with InfoNCE and the
critic of the paper's released code.

Needs torch and NumPy. `time_to_accuracy` runs it as a process of its own: a
line 'train START STOP' on standard input is answered with the seconds of these
steps; 'encode FOLDER FEATURE ...' with 0 when FOLDER/FEATURE.npy are written,
FEATURE being conv, fc or y; 'save FILE' and 'load FILE' with 0 when it is done.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch
import torch_dim  # type: ignore[import-not-found]  # Beside this script.
import torch_worker  # type: ignore[import-not-found]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--channels', type=int, nargs='+', required=True)
  parser.add_argument('--hidden', type=int, required=True)
  parser.add_argument('--units', type=int, required=True)
  parser.add_argument('--learning_rate', type=float, required=True)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--threads', type=int, default=2)
  args = parser.parse_args()
  versions = torch_worker.start(args.threads, args.seed)
  images = np.load(args.folder / 'images.npy')
  rows = np.load(args.folder / 'rows.npy')
  encoder = torch_dim.Encoder(images.shape[-1], args.channels, args.hidden)
  critic = torch_dim.Critic(args.channels[1], args.units)
  optimizers = [
    torch.optim.Adam(
      net.parameters(), lr=args.learning_rate, betas=(0.5, 0.999)
    )
    for net in (encoder, critic)
  ]

  def train(begin: str, end: str) -> float:
    encoder.train()
    start = time.perf_counter()
    for batch in rows[int(begin) : int(end)]:
      for optimizer in optimizers:
        optimizer.zero_grad()
      critic(*encoder(_scaled(images[batch]))).backward()
      for optimizer in optimizers:
        optimizer.step()
    return time.perf_counter() - start

  @torch.no_grad()
  def encode(folder: str, *features: str) -> float:
    encoder.eval()
    probed = np.load(args.folder / 'probed.npy', mmap_mode='r')
    for feature in features:
      # The last map with 'conv', the last hidden layer with 'fc'.
      depth = {'conv': 3, 'fc': 7, 'y': None}[feature]
      head = torch.nn.Sequential(encoder.local, *list(encoder.rest)[:depth])
      parts = [
        head(_scaled(probed[i : i + 500])).flatten(1)
        for i in range(0, len(probed), 500)
      ]
      np.save(pathlib.Path(folder) / feature, torch.cat(parts).numpy())
    return 0.0

  stateful = [encoder, critic, *optimizers]

  def save(path: str) -> float:
    torch.save([x.state_dict() for x in stateful], path)
    return 0.0

  def load(path: str) -> float:
    for x, state in zip(stateful, torch.load(path), strict=True):
      x.load_state_dict(state)
    return 0.0

  answers = {'train': train, 'encode': encode, 'save': save, 'load': load}
  print(json.dumps({'versions': versions}), flush=True)
  for line in sys.stdin:
    name, *words = line.split()
    print(json.dumps(answers[name](*words)), flush=True)


def _scaled(images: np.ndarray) -> torch.Tensor:
  """Returns uint8 images [N, H, W, C] as [N, C, H, W] in [-1, 1]."""
  x = torch.tensor(images).permute(0, 3, 1, 2)
  return x.float() / 127.5 - 1


if __name__ == '__main__':
  main()
