"""The peer of `dim_step`: the same training step in PyTorch.

DIM(L) with InfoNCE on basic32, with the critic of the paper's released code:
projections of both sides as 1x1 convolutions, LayerNorm, dot product. The loss
is the cheap form, one logsumexp over the negatives of each image, where the
released code materialises [N, L, 1 + N * L]; so the comparison favours PyTorch.
No prior, no probe, no data loading.

Needs torch and nothing else; `dim_step` runs it.

https://github.com/rdevon/DIM, cortex_DIM/nn_modules/mi_networks.py
"""

from collections.abc import Sequence

import torch
import torch_worker  # type: ignore[import-not-found]  # Beside this script.
from torch import nn
from torch.nn import functional as F


class Encoder(nn.Module):
  """basic32: images [N, 3, 32, 32] to a map [N, 128, 8, 8], codes [N, 64]."""

  def __init__(
    self,
    inputs: int = 3,
    channels: Sequence[int] = (64, 128, 256),
    hidden: int = 1024,
  ) -> None:
    super().__init__()
    a, b, c = channels
    self.local = nn.Sequential(*_conv(inputs, a), *_conv(a, b))
    self.rest = nn.Sequential(
      *_conv(b, c),
      nn.Flatten(),
      nn.Linear(c * 4 * 4, hidden, bias=False),
      nn.BatchNorm1d(hidden),
      nn.ReLU(),
      nn.Linear(hidden, 64),
    )

  def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the local map and the codes."""
    local = self.local(images)
    return local, self.rest(local)


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
  return [
    nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(outputs),
    nn.ReLU(),
  ]


class Projection(nn.Module):
  """A map [N, C, H, W] to embeddings [N, H * W, K]."""

  def __init__(self, inputs: int, units: int) -> None:
    super().__init__()
    self.branch = nn.Sequential(
      nn.Conv2d(inputs, units, 1, bias=False),
      nn.BatchNorm2d(units),
      nn.ReLU(),
      nn.Conv2d(units, units, 1),
    )
    self.skip = nn.Conv2d(inputs, units, 1, bias=False)
    with torch.no_grad():
      self.skip.weight.uniform_(-0.01, 0.01)
      self.skip.weight[range(inputs), range(inputs)] = 1.0
    self.norm = nn.LayerNorm(units)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Returns one embedding for each position."""
    y = self.branch(x) + self.skip(x)
    return self.norm(y.flatten(2).transpose(1, 2))


class Critic(nn.Module):
  """Projections of both sides, and the loss of their dot products."""

  def __init__(self, channels: int, units: int) -> None:
    super().__init__()
    self.local, self.code = Projection(channels, units), Projection(64, units)

  def forward(self, local: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """Returns the loss of a map [N, C, H, W] and codes [N, 64]."""
    local, code = self.local(local), self.code(code[:, :, None, None])
    return infonce(torch.einsum('ik,jlk->ijl', code[:, 0], local))


def infonce(scores: torch.Tensor) -> torch.Tensor:
  """The loss of scores [N, N, L]: image i's code with image j's locals."""
  n = scores.shape[0]
  own = torch.eye(n, dtype=torch.bool)
  positive = scores[own]
  others = scores.masked_fill(own[:, :, None], -torch.inf).flatten(1)
  return F.softplus(others.logsumexp(1)[:, None] - positive).mean()


def main() -> None:
  parser = torch_worker.parser(__doc__, batch_size=64)
  parser.add_argument('--units', type=int, default=2048)
  args = parser.parse_args()
  versions = torch_worker.start(args.threads)
  encoder, critic = Encoder(), Critic(128, args.units)
  groups: list[nn.Module] = [encoder, critic]
  # The released code has one Adam a network.
  optimizers = [
    torch.optim.Adam(group.parameters(), lr=1e-4, betas=(0.5, 0.999))
    for group in groups
  ]
  images = torch.rand(args.batch_size, 3, 32, 32) * 2 - 1

  compiled_encoder = torch_worker.compiled(args, encoder)
  compiled_critic = torch_worker.compiled(args, critic)

  def step() -> float:
    for optimizer in optimizers:
      optimizer.zero_grad()
    loss = compiled_critic(*compiled_encoder(images))
    loss.backward()
    for optimizer in optimizers:
      optimizer.step()
    return loss.item()

  torch_worker.serve(step, groups, versions)


if __name__ == '__main__':
  main()
