"""The mixer against its formulas frame by frame, and its independence of absent frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tocsin.models.touch.mixer import Gated, Mixer, SGPBlock, SGPMixer

SIZES = {"dim": 8, "kernel": 3, "reach": 2}
LENGTH = 16


def made(kind: type[nn.Module], **options: float) -> nn.Module:
    torch.manual_seed(0)
    module = kind(**SIZES, **options).double()
    for parameter in module.parameters():  # gains of 1 and biases of 0 would hide mistakes
        nn.init.normal_(parameter, std=0.4)
    return module


def mixer(layers: int = 2) -> Mixer:
    return made(Mixer, layers=layers, expansion=2, dropout=0.0)  # type: ignore[return-value]


def window(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randn(batch, length, SIZES["dim"], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def there(*absent: int, batch: int = 2) -> Tensor:
    mask = torch.ones(batch, LENGTH, dtype=torch.bool)
    mask[:, list(absent)] = False
    return mask


def naive_gated(gated: Gated, x: Tensor, present: Tensor) -> Tensor:
    """`Gated` of one window `[L, dim]`, by loops over the present frames."""
    frames = [t for t in range(len(x)) if present[t]]
    normed = {t: gated.norm(x[t]) for t in frames}
    mean = sum(normed.values()) / max(len(frames), 1)

    def convolved(convolution: nn.Conv1d, t: int) -> Tensor:
        side = convolution.kernel_size[0] // 2
        near = [s for s in frames if abs(s - t) <= side]
        return sum((convolution.weight[:, 0, s - t + side] * normed[s] for s in near), convolution.bias)

    out = torch.zeros_like(x)
    for t in frames:
        around = convolved(gated.near, t) + convolved(gated.far, t)
        out[t] = gated.fc(normed[t]) * torch.relu(gated.gfc(mean)) + around * convolved(gated.psi, t)
    return out


@pytest.mark.parametrize("absent", [(), (0, 1, 2), (5, 6, 15), range(1, LENGTH)])
def test_gated_is_its_formula_over_the_frames_that_are_there(absent: tuple[int, ...]) -> None:
    gated, x, present = made(Gated), window(), there(*absent)
    out = gated(x, present[..., None])
    for b in range(2):
        torch.testing.assert_close(out[b][present[b]], naive_gated(gated, x[b], present[b])[present[b]])  # type: ignore[arg-type]


def test_the_longer_convolution_sees_reach_times_as_far() -> None:
    gated = Gated(dim=4, kernel=9, reach=4)
    assert [c.kernel_size[0] // 2 for c in (gated.near, gated.psi, gated.far)] == [4, 4, 16]


@pytest.mark.parametrize("absent", [(), (4, 9)])
def test_the_u_net_goes_down_by_the_larger_of_two_frames_and_up_by_its_blocks(absent: tuple[int, ...]) -> None:
    network, x, present = mixer(layers=1), window(), there(*absent)
    whole, half = present[..., None], there()[:, ::2, None]  # each pair has a present frame

    def block(b: SGPBlock, x: Tensor, mask: Tensor) -> Tensor:
        x = x + b.gated(x, mask)
        return x + b.feed_forward(x)

    fine = block(network.down[0], x * whole, whole)  # type: ignore[arg-type]
    either = fine.clone()
    for t in absent:
        either[:, t] = fine[:, t ^ 1]
    coarse = block(network.bottom, torch.maximum(either[:, ::2], either[:, 1::2]), half)
    up: SGPMixer = network.up[0]  # type: ignore[assignment]
    twice = torch.stack([coarse, coarse], 2).flatten(1, 2)
    joined = fine + up.join(torch.cat([fine + up.fine(fine, whole), twice + up.coarse(twice, whole)], -1))
    torch.testing.assert_close(network(x, present)[present], (joined + up.feed_forward(joined))[present])


@pytest.mark.parametrize("content", [torch.nan, torch.inf, 1e30])
def test_what_absent_frames_hold_changes_nothing(content: float) -> None:
    results, present = [], there(0, 1, 2, 7, 15)
    present[1] = False  # a window without frames
    for value in (0.0, content):
        network = mixer()
        x = torch.where(present[..., None], window(), value).requires_grad_()
        out = network(x, present)[present]
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in network.parameters())])
    for zero, other in zip(*results, strict=True):
        assert torch.equal(zero, other) and torch.isfinite(other).all()


@pytest.mark.parametrize(("absent", "kept"), [(range(8), slice(8, None)), (range(12, LENGTH), slice(12))])
def test_absent_frames_are_the_same_as_a_shorter_window(absent: range, kept: slice) -> None:
    network, x = mixer(), window()
    shorter = network(x[:, kept], there()[:, kept])
    torch.testing.assert_close(network(x, there(*absent))[:, kept], shorter)


def test_every_frame_hears_of_every_other() -> None:
    network, x = mixer(), window(batch=1).requires_grad_()
    out = network(x, there(batch=1))[0]
    for t in (0, 7, LENGTH - 1):
        (gradient,) = torch.autograd.grad(out[t].square().sum(), x, retain_graph=True)
        assert gradient[0].abs().sum(-1).gt(0).all()


def test_windows_do_not_depend_on_each_other_and_there_may_be_none() -> None:
    network, x, present = mixer(), window(batch=3), there(3, 4, batch=3)
    together = network(x, present)
    for b in range(3):
        torch.testing.assert_close(network(x[b : b + 1], present[b : b + 1])[0], together[b])
    assert network(x[:0], present[:0]).shape == (0, LENGTH, SIZES["dim"])


def test_all_parameters_are_trained() -> None:
    network = mixer()
    network(window(), there()).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_window_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="x has 10 frames, expected a multiple of 4: it is halved 2 times"):
        mixer()(window(length=10), there()[:, :10])
