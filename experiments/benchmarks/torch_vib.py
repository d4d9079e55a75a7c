"""The VIB step in PyTorch, for `vib_step`: needs torch alone.

The model of the paper on MNIST: 784-1024-1024, a diagonal Gaussian code, a
linear decoder, Adam, and a moving average of all weights.
"""

import torch
import torch.nn.functional as F
import torch_worker  # type: ignore[import-not-found]  # Beside this script.
from torch import nn
from torch.optim import swa_utils


class Bottleneck(nn.Module):
  """The classifier; returns logits [1, N, C] and the rate [N]."""

  def __init__(self, code: int) -> None:
    super().__init__()
    self.encoder = nn.Sequential(
      nn.Linear(784, 1024),
      nn.ReLU(),
      nn.Linear(1024, 1024),
      nn.ReLU(),
      nn.Linear(1024, 2 * code),
    )
    self.decoder = nn.Linear(code, 10)
    for module in self.modules():
      if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)

  def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits [1, N, C] and the rate [N] of flat images."""
    mean, rho = self.encoder(images).chunk(2, 1)
    std = F.softplus(rho - 5)
    noise = torch.randn(1, *mean.shape)
    rate = (0.5 * (mean.square() + std.square() - 1) - std.log()).sum(1)
    return self.decoder(mean + std * noise), rate


def main() -> None:
  parser = torch_worker.parser(__doc__, batch_size=100)
  parser.add_argument('--code', type=int, default=256)
  parser.add_argument('--adam', choices=('default', 'fused'), default='default')
  args = parser.parse_args()
  versions = torch_worker.start(args.threads)
  model = Bottleneck(args.code)
  optimizer = torch.optim.Adam(
    model.parameters(),
    lr=1e-4,
    betas=(0.5, 0.999),
    fused=True if args.adam == 'fused' else None,
  )
  average = swa_utils.AveragedModel(
    model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.999)
  )
  # As ours: the set is resident as bytes, a batch is gathered and scaled.
  images = torch.randint(0, 256, (60000, 784), dtype=torch.uint8)
  labels = torch.randint(0, 10, (60000,))

  compiled = torch_worker.compiled(args, model)

  def step() -> torch.Tensor:
    rows = torch.randint(0, 60000, (args.batch_size,))
    x = images[rows].float() / 127.5 - 1
    y = labels[rows]
    optimizer.zero_grad()
    logits, rate = compiled(x)
    loss = F.cross_entropy(logits.flatten(0, 1), y) + 1e-3 * rate.mean()
    loss.backward()
    optimizer.step()
    average.update_parameters(model)
    return loss.detach()

  torch_worker.serve(step, [model], versions, warm_up=5)


if __name__ == '__main__':
  main()
