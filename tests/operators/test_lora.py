"""Adapters: a batch of many sites equals each row with its site's whole weights; a new adapter changes nothing; packed weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tocsin.operators.lora import Adapters, Kind, Quantised, adaptable, low_rank, naive_adapters, nf4_levels, quantised
from tocsin.operators.pooling import AdditiveAttentionPool

SITES = 5


class Net(nn.Module):
    """One layer of each kind."""

    def __init__(self, **conv: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, **conv)  # type: ignore[arg-type]
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(torch.tanh(self.conv(x.transpose(1, 2))).transpose(1, 2))
        return self.head(states[:, -1] + states.mean(1))


ALL = [
    *("conv.weight", "conv.bias", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0"),
    *("head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"),
]


def adapters(names: list[str], rank: int = 2, **conv: int) -> Adapters:
    """Adapters that differ by site."""
    torch.manual_seed(0)
    made = Adapters(Net(**conv), names, rank=rank, sites=SITES)
    for value in made.values.values():
        nn.init.normal_(value, std=0.5)
    return made


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.tensor([0, 4, -1, 2, 2, 0, -1, 3]), torch.randn(8, 12, 3)


@pytest.mark.parametrize("names", [ALL, *([name] for name in ALL), ["lstm.weight_hh_l0", "head.2.bias"]], ids=str)
def test_a_batch_of_many_sites_equals_each_row_with_its_own_weights(names: list[str]) -> None:
    made, (site, x) = adapters(names), batch()
    torch.testing.assert_close(made(site, x), naive_adapters(made, site, x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(site, x)[0], made.unadapted()(x)[0])


@pytest.mark.parametrize(
    "conv", [{"padding": 1}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"stride": 3, "padding": 2}]
)
def test_convolutions_of_any_geometry_are_adapted(conv: dict[str, int]) -> None:
    made, (site, x) = adapters(["conv.weight", "conv.bias"], **conv), batch()
    torch.testing.assert_close(made(site, x), naive_adapters(made, site, x), atol=1e-5, rtol=1e-5)


def test_rows_without_a_site_and_new_adapters_are_judged_by_the_network_alone() -> None:
    (site, x), made = batch(), adapters(ALL)
    torch.testing.assert_close(made(site, x)[site < 0], made.unadapted()(x)[site < 0])
    fresh = Adapters(Net(), ALL, rank=2, sites=SITES)
    torch.testing.assert_close(fresh(site, x), fresh.unadapted()(x))


def test_a_row_does_not_depend_on_the_sites_beside_it() -> None:
    made, (site, x) = adapters(ALL), batch()
    order = torch.randperm(len(site), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(made(site[order], x[order]), made(site, x)[order])


def test_training_moves_one_site_and_leaves_the_network_and_the_others() -> None:
    made, (_, x) = adapters(ALL), batch()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(torch.full((len(x),), 2), x).square().mean().backward()
        optimizer.step()
    for name, value in made.state_dict().items():
        changed = [s for s in range(SITES) if not torch.equal(value[s], before[name][s])] if "values" in name else []
        assert changed == ([2] if "values" in name else []), name
        if "values" not in name:
            assert torch.equal(value, before[name])


def test_low_rank_is_the_product_of_its_matrices() -> None:
    torch.manual_seed(0)
    x, down, up = torch.randn(4, 7, 5), torch.randn(4, 2, 5), torch.randn(4, 3, 2)
    expected = torch.einsum("bti,bri,bor->bto", x, down, up)
    torch.testing.assert_close(low_rank(x, down, up), expected)
    torch.testing.assert_close(low_rank(x[:, 0], down, up), expected[:, 0])


def test_an_adapter_stays_within_its_share() -> None:
    network = nn.Sequential(nn.Linear(115, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    names, whole = adaptable(network, share=0.03), sum(p.numel() for p in network.parameters())
    assert names == ["0.weight", "0.bias", "2.bias", "4.bias"]
    made = Adapters(network, names)
    assert sum(p.numel() for p in made.values.values()) <= 0.03 * whole
    assert adaptable(network, share=0.001) == []


@pytest.mark.parametrize(
    "name", ["head.1.weight", "nowhere.weight", "norm.bias", "deep.weight_ih_l0", "pool.project.weight"]
)
def test_what_can_not_be_adapted_is_named(name: str) -> None:
    network = Net()
    network.norm, network.deep = nn.BatchNorm1d(4), nn.LSTM(4, 4, num_layers=2, batch_first=True)
    network.pool = AdditiveAttentionPool(dim=4, hidden=3)
    with pytest.raises(ValueError, match=f"{name}: expected a weight or bias"):
        Adapters(network, [name])


@pytest.mark.parametrize(("kind", "error", "bits"), [("int8", 0.01, 8.5), ("nf4", 0.15, 4.5)])
def test_packed_weights_are_near_and_small(kind: Kind, error: float, bits: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(512, 256)
    packed = Quantised(layer, kind)
    off = (packed.weight - layer.weight).norm() / layer.weight.norm()
    assert 0 < off < error
    size = sum(b.numel() * b.element_size() for b in packed.buffers()) * 8 / layer.weight.numel()
    assert size <= bits


def test_adapters_over_packed_weights_are_the_same_adapters() -> None:
    made, (site, x) = adapters(["conv.weight", "head.0.weight", "head.2.bias"]), batch()
    plain = made(site, x)
    packed = made.quantise("int8")
    torch.testing.assert_close(packed(site, x), plain, atol=0.05, rtol=0.05)
    assert not any(isinstance(module, nn.Linear | nn.Conv1d) for module in packed.network.modules())
    assert isinstance(quantised(nn.Sequential(nn.Linear(3, 2)), "nf4")[0], Quantised)  # type: ignore[index]


def test_the_levels_of_nf4_have_their_ends_and_zero() -> None:
    levels = nf4_levels()
    assert (len(levels), levels[0], levels[7], levels[15]) == (16, -1, 0, 1)
    assert bool((levels.diff() > 0).all())
