"""The peer of `time_to_accuracy`: the same training run in PyTorch.

The networks and the loss are those of `torch_dim`, DIM(L) with InfoNCE and the
critic of the paper's released code.

Needs torch and NumPy. `time_to_accuracy` runs it as a process of its own: a
line 'train START STOP' on standard input is answered with the seconds of these
steps, and 'encode FILE' with 0 when the codes are written.
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
  parser.add_argument('--feature', choices=('conv', 'fc'), required=True)
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

  def train(begin: int, end: int) -> float:
    encoder.train()
    start = time.perf_counter()
    for batch in rows[begin:end]:
      for optimizer in optimizers:
        optimizer.zero_grad()
      critic(*encoder(_scaled(images[batch]))).backward()
      for optimizer in optimizers:
        optimizer.step()
    return time.perf_counter() - start

  @torch.no_grad()
  def encode(path: str) -> float:
    encoder.eval()
    # The last map with 'conv', the last hidden layer with 'fc'.
    depth = 3 if args.feature == 'conv' else 7
    head = torch.nn.Sequential(encoder.local, *list(encoder.rest)[:depth])
    probed = np.load(args.folder / 'probed.npy')
    parts = [
      head(_scaled(probed[i : i + 500])).flatten(1)
      for i in range(0, len(probed), 500)
    ]
    np.save(path, torch.cat(parts).numpy())
    return 0.0

  print(json.dumps({'versions': versions}), flush=True)
  for line in sys.stdin:
    name, *words = line.split()
    answer = encode(*words) if name == 'encode' else train(*map(int, words))
    print(json.dumps(answer), flush=True)


def _scaled(images: np.ndarray) -> torch.Tensor:
  """Returns uint8 images [N, H, W, C] as [N, C, H, W] in [-1, 1]."""
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  return x.float() / 127.5 - 1


if __name__ == '__main__':
  main()
