"""The teacher of the RUL network: small dense networks over the level and slope of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tocsin.models.rul.data import Windows
from tocsin.models.rul.network import level_and_slope, rul_loss

WIDTH = 64
STEPS = 1000
BATCH = 128


class Teacher(nn.Module):
    """The mean prediction of several dense networks on the straight line through each channel's window.

    Two numbers per channel leave little of an asset to memorise. A teacher therefore errs less on unseen assets than a
    recurrent network trained on the labels. The recurrent network learns the teacher's function instead, on any number
    of augmented windows. Distillation is this project's choice, not the paper's.

    Args:
        channels: number of sensors C.
        cap: largest RUL in the labels.
        members: how many networks are averaged.
    """

    def __init__(self, *, channels: int, cap: float, members: int) -> None:
        super().__init__()
        self.cap = cap
        self.members = nn.ModuleList(_dense(2 * channels) for _ in range(members))

    def forward(self, windows: Tensor) -> Tensor:
        """RUL `[B]` in `[0, cap]` of standardised windows `[B, T, C]`."""
        lines = level_and_slope(windows)
        shares = torch.stack([member(lines).squeeze(-1) for member in self.members])  # [members, B]
        return (shares.mean(0) * self.cap).clamp(0, self.cap)

    def fit(self, scaled: Windows, *, asymmetry: float) -> Teacher:
        """Train every member on the labels of `scaled`, windows over standardised rows; see `rul_loss`."""
        lines = torch.cat([level_and_slope(scaled.batch(i)) for i in torch.arange(len(scaled)).split(4096)])
        target = scaled.rul.clamp(max=self.cap)
        for number, member in enumerate(self.members):
            average = AveragedModel(member, multi_avg_fn=get_ema_multi_avg_fn(0.99))
            optimizer = torch.optim.AdamW(member.parameters(), lr=2e-3, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for _ in range(STEPS):
                index = torch.randint(len(lines), (BATCH,))
                predicted = member(lines[index]).squeeze(-1) * self.cap
                optimizer.zero_grad()
                rul_loss(predicted, target[index], asymmetry=asymmetry).backward()
                nn.utils.clip_grad_norm_(member.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                average.update_parameters(member)
            self.members[number] = average.module
        return self.eval().requires_grad_(False)


def _dense(inputs: int) -> nn.Sequential:
    output = nn.Linear(WIDTH, 1)
    nn.init.constant_(output.bias, 0.6)
    hidden = [nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*hidden, output)
