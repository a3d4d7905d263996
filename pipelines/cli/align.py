"""The command `align`: how the frames of two cameras lie over each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tocsin.models.alignment.geometry import Matrix

    Image = NDArray[np.uint8]

FRAMES = 15
"""Pairs of frames of two videos that are aligned, spread over the shorter one."""
LONGEST = 1000
"""Frames of a video or a stream that are read, at most."""
UNSURE = 3
"""The exit status if nothing confident was found."""
SQUARE = 40
"""Side of the squares of the picture, pixels."""


def align(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Picture, video or folder of pictures.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The same scene by another camera.")],
    model: Annotated[str, typer.Option(help="name@alias, name/version or a folder.")] = "alignment@champion",
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw both frames over each other, in squares, to this PNG.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Find the homography from the pixels of one camera to those of another, of the same or of another kind.

    Of videos, frames of the same number are pairs, and the result is the median of the confident ones. Exits with 3 if none is.
    """
    import numpy as np

    from tocsin.models.alignment.geometry import from_offsets, offsets, scaled
    from tocsin.models.alignment.model import grey, load
    from tocsin.pipelines.cli.console import note, out, say_json
    from tocsin.pipelines.cli.deployment import resolved
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    network = load(resolved(context.obj.settings(), model)[2])
    try:
        pairs = _pairs(first, second)
    except (ValueError, OSError) as reason:
        raise ConfigError(str(reason)) from None
    found = [network.align(*(grey(frame, network.size) for frame in pair)) for pair in pairs]
    sure = [a for a in found if a.confidence >= network.config.watch.confident]
    used = sure or [max(found, key=lambda a: a.confidence)]
    shifts = np.median([offsets(a.homography, network.size) for a in used], axis=0)
    sizes = [(frame.shape[0], frame.shape[1]) for frame in pairs[0]]
    factors = [(width / network.size[1], height / network.size[0]) for height, width in sizes]
    homography = scaled(from_offsets(shifts, network.size), factors[0], factors[1])
    homography = homography / homography[2, 2]
    said = {
        "homography": homography.tolist(),
        "confidence": float(np.median([a.confidence for a in used])),
        "error": float(np.median([a.error for a in used]) * np.mean(factors[1])) if sure else None,
        "pairs": len(pairs),
        "confident": len(sure),
    }
    if picture:
        _write(picture, _squares(*pairs[0], homography))
    if json:
        say_json(said)
    else:
        for row in homography:
            out.print("  ".join(f"{value: .6g}" for value in row))
        error = f", error about {said['error']:.1f} px" if sure else ""
        out.print(f"confidence {said['confidence']:.2f}{error}; {len(sure)} of {len(pairs)} pairs are confident")
    if not sure:
        note("no pair is confident: the cameras may see different things, or too little; try other frames")
        raise typer.Exit(UNSURE)


def _pairs(first: str, second: str) -> list[tuple[Image, Image]]:
    """Frames of two cameras, of the same numbers. Only so many are held as are used, since frames may be large."""
    from itertools import islice

    from tocsin.models.vision.video import read

    clips = [read(source, rate=None, size=None) for source in (first, second)]
    pairs: list[tuple[Image, Image]] = []
    step = 1
    for number, pair in enumerate(islice(zip(*clips, strict=False), LONGEST)):
        if number % step == 0:
            pairs.append(pair)
        if len(pairs) == 2 * FRAMES:
            pairs, step = pairs[::2], 2 * step
    if not pairs:
        raise ValueError(f"{first}, {second}: expected frames in both, got none; name others")
    count = min(len(pairs), FRAMES)
    return [pairs[round(n * (len(pairs) - 1) / max(count - 1, 1))] for n in range(count)]


def _squares(first: Image, second: Image, homography: Matrix) -> Image:
    """The first frame, with the second brought over it in every other square."""
    import cv2
    import numpy as np

    rows, columns = first.shape[:2]
    brought = cv2.warpPerspective(second, homography, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    y, x = np.mgrid[:rows, :columns] // SQUARE
    return np.where(((x + y) % 2 == 0)[..., None], first, brought)


def _write(file: Path, image: Image) -> None:
    import cv2

    from tocsin.pipelines.runtime.lake.storage import write_aside

    written, png = cv2.imencode(".png", image[..., ::-1])
    assert written
    write_aside(file, png.tobytes())
