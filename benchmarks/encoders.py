"""Measure frames per second of the frame encoders, and the speed-up of a vision transformer by token merging.

    OMP_NUM_THREADS=1 python -m benchmarks.encoders [--device cpu] [--seconds 3] [--quick]

The first table is EfficientNet-Lite0 at each of its layers. The second is a transformer of DINOv2's ViT-S/14 shape that merges
in every block, at several thresholds, compared with itself unmerged; the two are timed in turn. Its weights are random, since
the real ones are not available here. Its images are smooth: nearby patches are similar, as in photographs. Times are processor
time of the process on a CPU and wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases.merging import smooth_images
from tocsin.models.trained import placed
from tocsin.models.vision import vit
from tocsin.models.vision.backbone import Backbone
from tocsin.models.vision.efficientnet import LAYERS
from tocsin.models.vision.encoder import Encoder, load
from tocsin.models.vision.published import DINOV2, Settings

SIZES = ((160, 288), (224, 224))
BATCHES = (1, 8, 32)
SIDES, THRESHOLDS = (224, 336), (0.95, 0.9, 0.8)
SMALL = Settings(
    names=DINOV2,
    width=384,
    depth=12,
    heads=6,
    hidden=1536,
    gated=False,
    activation="gelu",
    registers=0,
    patch=14,
    epsilon=1e-6,
    unbiased=frozenset(),
    rope=None,
    side=37,
    antialias=False,
)


def clock(device: torch.device) -> float:
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def cost(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the median time of a call in seconds: after one warm-up call, as many calls as fit into `seconds`, at least three."""
    run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = clock(device)
        run()
        times.append(clock(device) - start)
    return statistics.median(times)


def convolutional(device: str, seconds: float, *, quick: bool) -> None:
    print("| size | layer | grid x width | frames at once | frames/s | ms a frame |\n|---|---|---|---|---|---|")
    for size in SIZES[:1] if quick else SIZES:
        for layer in LAYERS:
            encoder = load(size=size, device=device, layer=layer)
            for batch in BATCHES:
                frames = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
                each = cost(lambda e=encoder, f=frames: e(f), encoder.device, seconds) / batch
                (h, w), d = encoder.grid, encoder.width
                print(
                    f"| {size[0]} x {size[1]} | {layer} | {h} x {w} x {d} | {batch} | {1 / each:.1f} | {1e3 * each:.1f} |"
                )


def transformer(device: str, seconds: float, *, quick: bool) -> None:
    print(
        "\n| size | threshold | tokens | left, mean of frames | frames/s | against unmerged | 1 - cosine, pooled | of the tokens |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for side in SIDES[:1] if quick else SIDES:
        torch.manual_seed(0)
        images = smooth_images(8, side)
        frames = (images * 40 + 127).clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
        plain = small(side, None, device)
        full = plain(frames)
        n = 1 + plain.grid[0] * plain.grid[1]
        once = cost(lambda p=plain, f=frames: p(f), plain.device, seconds) / len(frames)
        print(f"| {side} x {side} | none | {n} | {n} | {1 / once:.2f} | 1 | 0 | 0 |")
        for threshold in THRESHOLDS:
            merging = small(side, threshold, device)
            some = merging(frames)
            pooled = 1 - F.cosine_similarity(full.pooled, some.pooled).double().mean()
            tokens = 1 - F.cosine_similarity(full.tokens, some.tokens, dim=-1).double().mean()
            ratios, each = [], []
            for _ in range(5):
                merging_seconds = cost(lambda e=merging, f=frames: e(f), plain.device, seconds / 5)
                ratios.append(cost(lambda p=plain, f=frames: p(f), plain.device, seconds / 5) / merging_seconds)
                each.append(merging_seconds / len(frames))
            rate, gain = 1 / statistics.median(each), statistics.median(ratios)
            print(
                f"| {side} x {side} | {threshold} | {n} | {remaining_tokens(merging, frames):.0f} | {rate:.2f} "
                f"| {gain:.2f}x | {pooled:.1e} | {tokens:.1e} |"
            )


def small(side: int, threshold: float | None, device: str) -> Encoder:
    """Return a ViT-S/14 with fixed random weights: torch's initialisation, layer scale 1."""
    torch.manual_seed(1)
    grid = (side // SMALL.patch, side // SMALL.patch)
    network = vit.VisionTransformer(SMALL, grid, threshold=threshold)
    assert network.positions is not None
    for tensor in (network.prefix, network.positions):
        nn.init.normal_(tensor, std=0.02)
    return Encoder(
        Backbone(
            network=network,
            name="random",
            version="",
            size=(side, side),
            grid=grid,
            width=SMALL.width,
            mean=vit.MEAN,
            std=vit.STD,
        ),
        placed(device),
    )


def remaining_tokens(encoder: Encoder, frames: Tensor) -> float:
    """Return the mean number of a frame's tokens that are left in the last block."""
    counts: list[int] = []
    last = encoder._network.blocks[-1].down
    hook = last.register_forward_hook(lambda module, inputs, output: counts.append(output.shape[1]))
    encoder(frames)
    hook.remove()
    return statistics.mean(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=3, help="how long each figure is measured")
    parser.add_argument("--quick", action="store_true", help="one size of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    convolutional(args.device, args.seconds, quick=args.quick)
    transformer(args.device, args.seconds, quick=args.quick)


if __name__ == "__main__":
    main()
