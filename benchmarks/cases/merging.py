"""A ViT-S that merges tokens in its first 8 blocks, against itself unmerged and against bipartite soft matching.

The weights are random. The images are smooth: nearby patches are similar, as in photographs. Bipartite matching (after ToMe,
arXiv 2210.09461) merges as many tokens in each block as MaMe did, each into the single nearest token, by keys or by the tokens
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases.meter import Row, compare
from tocsin.operators.merging import MergingBlock, merge

DIM, HEADS, BLOCKS, MERGING, PATCH = 384, 6, 12, 8, 16
Reduce = Callable[[int, MergingBlock, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def rows(*, quick: bool) -> Iterator[Row]:
    sizes = ((14, 1, 0.9),) if quick else ((14, 1, 0.9), (24, 1, 0.9), (14, 8, 0.8), (24, 8, 0.8))
    for side, batch, threshold in sizes:
        torch.manual_seed(0)
        net, images = Net(side), smooth_images(8, side * PATCH)
        mame, missed, counts = partial(by_matrices, threshold), torch.zeros(3, dtype=torch.float64), []
        with torch.inference_mode():
            for some in images.split(batch):
                full, (ours, counts) = net(some)[0], net(some, mame)
                others = [net(some, partial(bipartite, counts, by_keys))[0] for by_keys in (True, False)]
                cosines = [F.cosine_similarity(full, pooled).double().mean() for pooled in (ours, *others)]
                missed += (1 - torch.stack(cosines)) * batch / len(images)
        ours, keys, tokens = missed.tolist()
        size = f"{side * side + 1} tokens, {counts[-1]} left, batch {batch}"
        quality = f"1 - cosine of the pooled output {ours:.1e}"
        run = partial(net, some, mame)
        yield compare("MaMe in a ViT-S / unmerged", size, run, partial(net, some), quality=quality, target=">= 1.8")
        for name, by_keys, their in (("keys", True, keys), ("tokens", False, tokens)):
            other = partial(net, some, partial(bipartite, counts, by_keys))
            both = f"{quality}, bipartite {their:.1e}"
            yield compare(f"MaMe / bipartite by {name}", size, run, other, rounds=11, quality=both, target=">= 1")


class Net(nn.Module):
    """A ViT-S with a class token: returns the size-weighted mean of the last tokens, and the number of tokens after each block."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.first = nn.Parameter(torch.randn(1, 1, DIM) / 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, side * side + 1, DIM))
        self.blocks = nn.ModuleList(MergingBlock(dim=DIM, heads=HEADS, threshold=1.0) for _ in range(BLOCKS))
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, reduce: Reduce | None = None) -> tuple[Tensor, list[int]]:
        patches = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(len(images), -1, -1), patches), dim=1) + self.position
        sizes, counts = None, []
        for number, block in enumerate(self.blocks):
            before, x = x, block.attend(x, sizes)
            if reduce and number < MERGING:
                x, sizes = reduce(number, block, before, x, sizes)
            counts.append(x.shape[1])
            x = x + block.mlp(x)
        x, weight = F.layer_norm(x, (DIM,)), x.new_ones(x.shape[:2]) if sizes is None else sizes
        return (weight.unsqueeze(1) @ x).squeeze(1) / weight.sum(1, keepdim=True), counts


def by_matrices(
    threshold: float, number: int, block: MergingBlock, before: Tensor, x: Tensor, sizes: Tensor | None
) -> tuple[Tensor, Tensor]:
    merged = merge(x, sizes, threshold=threshold, protected=1)
    return merged.tokens, merged.sizes


def bipartite(
    counts: list[int], by_keys: bool, number: int, block: MergingBlock, before: Tensor, x: Tensor, sizes: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Merge the most similar pairs of two halves of the tokens, without the class token, until `counts[number]` tokens are left."""
    fewer = x.shape[1] - counts[number]
    if not fewer:
        return x, sizes
    sizes = x.new_ones(x.shape[:2]) if sizes is None else sizes
    features = F.normalize(keys(block, before) if by_keys else x, dim=-1)
    nearest, target = (features[:, 1::2] @ features[:, 2::2].mT).max(-1)
    order = nearest.argsort(-1, descending=True)
    merged, remaining = order[:, :fewer], order[:, fewer:].sort(-1).values
    source, into = x[:, 1::2], target.gather(1, merged)
    n_source = sizes[:, 1::2]
    number_in = sizes[:, 2::2].scatter_add(1, into, n_source.gather(1, merged))
    moved = rows_at(source, merged) * n_source.gather(1, merged).unsqueeze(-1)
    total = (x[:, 2::2] * sizes[:, 2::2, None]).scatter_add(1, into.unsqueeze(-1).expand(-1, -1, DIM), moved)
    x = torch.cat((x[:, :1], rows_at(source, remaining), total / number_in.unsqueeze(-1)), dim=1)
    return x, torch.cat((sizes[:, :1], n_source.gather(1, remaining), number_in), dim=1)


def keys(block: MergingBlock, before: Tensor) -> Tensor:
    """Return the mean key over heads from the mean of the projection's rows; taking it from the attention costs more."""
    weight = block.project.weight[DIM : 2 * DIM].unflatten(0, (HEADS, -1)).mean(0)
    return F.linear(block.before_attention(before), weight)  # biases are 0 here


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def smooth_images(count: int, side: int) -> Tensor:
    """Return random images in which finer detail has less contrast."""
    scales = (4, 8, 16, 32, 64)
    octaves = [torch.randn(count, 3, scale, scale) * 4 / scale for scale in scales]
    image = sum(F.interpolate(o, size=(side, side), mode="bicubic") for o in octaves)
    assert isinstance(image, Tensor)
    return (image - image.mean()) / image.std()
