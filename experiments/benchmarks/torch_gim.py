"""The peer of `gim_step`: the same training step in PyTorch.

Greedy InfoMax on images or on sound, all modules at once with one Adam, with
the losses as the authors' code takes them. On sound it gathers every negative
of every frame of the batch and keeps the tail of them; `--case=sound_lean`
gathers that tail alone, which gives the same loss.

Needs torch and nothing else; `gim_step` runs it.

https://github.com/loeweX/Greedy_InfoMax
"""

import torch
import torch_worker  # type: ignore[import-not-found]  # Beside this script.
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
  """A pre-activation bottleneck without normalisation."""

  def __init__(self, inputs: int, width: int, stride: int) -> None:
    super().__init__()
    self.convs = nn.ModuleList(
      [
        nn.Conv2d(inputs, width, 1),
        nn.Conv2d(width, width, 3, stride, 1),
        nn.Conv2d(width, 4 * width, 1),
      ]
    )
    self.shortcut = None
    if stride != 1 or inputs != 4 * width:
      self.shortcut = nn.Conv2d(inputs, 4 * width, 1, stride)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Returns maps [P, 4 * width, H', W']."""
    y = F.relu(x)
    shortcut = x if self.shortcut is None else self.shortcut(y)
    for i, conv in enumerate(self.convs):
      y = conv(F.relu(y) if i else y)
    return shortcut + y


class Vision(nn.Module):
  """ResNet-50's three modules on patches; the loss of gray images [N, 64, 64].

  Five offsets, 16 negatives, as published.
  """

  def __init__(self) -> None:
    super().__init__()
    stages: list[nn.Module] = []
    inputs = 64
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2)):
      stage: list[nn.Module] = []
      if not stages:
        stage.append(nn.Conv2d(1, 64, 5, padding=2))
      for i in range(blocks):
        stage.append(Block(inputs, width, 1 if i else stride))
        inputs = 4 * width
      stages.append(nn.Sequential(*stage))
    self.stages = nn.ModuleList(stages)
    self.scores = nn.ModuleList(
      nn.ModuleList(nn.Conv2d(c, c, 1, bias=False) for _ in range(5))
      for c in (256, 512, 1024)
    )

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Returns the sum of the modules' losses."""
    n = len(images)
    x = images.unfold(1, 16, 8).unfold(2, 16, 8)
    x = x.reshape(-1, 1, 16, 16)
    total = torch.zeros(())
    for stage, scores in zip(self.stages, self.scores, strict=True):
      x = stage(x.detach())
      grid = x.mean((2, 3)).reshape(n, 7, 7, -1).permute(0, 3, 1, 2)
      total = total + self._loss(grid.contiguous(), scores)
    return total

  def _loss(self, z: torch.Tensor, scores: nn.ModuleList) -> torch.Tensor:
    total = torch.zeros(())
    for step, score in enumerate(scores, start=2):
      # Rows, columns, images, channels; negatives from any of the targets.
      targets = score(z[:, :, step:]).permute(2, 3, 0, 1)
      anchors = z[:, :, : 7 - step].permute(2, 3, 0, 1)
      flat = targets.reshape(-1, targets.shape[-1])
      drawn = torch.randint(0, len(flat), (len(flat) * 16,))
      negatives = flat[drawn].reshape(*targets.shape[:3], 16, -1)
      logits = torch.cat(
        [
          (anchors * targets).sum(-1, keepdim=True),
          (negatives @ anchors[..., None])[..., 0],
        ],
        -1,
      )
      total = total - (logits.softmax(-1)[..., 0] + 1e-11).log().mean()
    return total / len(scores)


class Sound(nn.Module):
  """Five convolutions and a GRU; the loss of waveforms [N, 20480].

  Twelve offsets, 10 negatives, windows of 128 frames, as published.

  Attributes:
    lean: whether to gather only the negatives that are used.
  """

  def __init__(self, lean: bool) -> None:
    super().__init__()
    self.lean = lean
    shapes = ((10, 5, 2), (8, 4, 2), (4, 2, 2), (4, 2, 2), (4, 2, 1))
    self.convs = nn.ModuleList(
      nn.Conv1d(512 if i else 1, 512, size, stride, padding)
      for i, (size, stride, padding) in enumerate(shapes)
    )
    self.gru = nn.GRU(512, 256, batch_first=True)
    self.scores = nn.ModuleList(
      nn.Linear(c, 12 * 512, bias=False) for c in (*5 * (512,), 256)
    )

  def forward(self, audio: torch.Tensor) -> torch.Tensor:
    """Returns the sum of the modules' losses."""
    x = audio[:, None]
    total = torch.zeros(())
    for conv, score in zip(self.convs, self.scores, strict=False):
      x = F.relu(conv(x.detach()))
      z = x.transpose(1, 2)
      total = total + self._loss(z, z, score)
    z = x.detach().transpose(1, 2).contiguous()
    return total + self._loss(z, self.gru(z)[0], self.scores[-1])

  def _loss(
    self, every: torch.Tensor, c: torch.Tensor, score: nn.Module
  ) -> torch.Tensor:
    n, length, features = every.shape
    z = every
    if length > 128:
      start = int(torch.randint(0, length - 128, ()))
      z, c = z[:, start : start + 128], c[:, start : start + 128]
    frames = z.shape[1]
    rows = every.reshape(-1, features)
    drawn = torch.stack([torch.randperm(len(rows)) for _ in range(10)])
    if self.lean:
      drawn = drawn[:, -n * (frames - 1) :]
    negatives = rows[drawn.flatten()].reshape(10, -1, features)
    predictions = score(c).reshape(n, frames, 12, features)
    total = torch.zeros(())
    for step in range(1, 13):
      anchors = predictions[:, :-step, step - 1].reshape(-1, features)
      targets = z[:, step:].reshape(-1, features)
      kept = negatives[:, -len(anchors) :]
      logits = torch.cat(
        [
          (anchors * targets).sum(-1)[None],
          (anchors[None] * kept).sum(-1),
        ]
      )
      total = total - logits.log_softmax(0)[0].mean()
    return total / 12


def main() -> None:
  parser = torch_worker.parser(__doc__, batch_size=4)
  parser.add_argument('--case', choices=('vision', 'sound', 'sound_lean'))
  args = parser.parse_args()
  versions = torch_worker.start(args.threads)
  if args.case == 'vision':
    model: nn.Module = Vision()
    inputs = torch.randn(args.batch_size, 64, 64)
  else:
    model = Sound(args.case == 'sound_lean')
    inputs = torch.randn(args.batch_size, 20480)
  optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)

  compiled = torch_worker.compiled(args, model)

  def step() -> float:
    loss = compiled(inputs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  torch_worker.serve(step, [model], versions)


if __name__ == '__main__':
  main()
