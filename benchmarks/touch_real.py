"""Measure how touches are found in real clips, by recording left out; `docs/touch.md` shows the tables.

    python -m benchmarks.touch_real --hands hand_landmarker.task FOLDER... [--things things.json]

Each folder holds the labelled clips of one camera, see `tocsin.models.touch.clips`. For each folder, the constants of
`tocsin.models.touch.reach` are chosen on the other folders, by the F1 of touches found within three frames, and scored on this one.
Many constants are equally good there; of those, the ones nearest to their mean are taken. The shipped constants are scored beside,
and these baselines:

- every stop: a touch wherever a hand stops, whatever moves with it;
- near a thing: the box of MediaPipe's joints comes near the box of a thing, by the best distance on the other folders. `--things`
  maps a clip's name to `[[frame, left, top, right, bottom], ...]` in shares of the frame: the things that will be touched, marked
  by eye. The camera's motion carries them on until the hand does.

`touch_homes.json` has labels of more clips, which are scored as a recording of their own. With `--sim`, the simulated validation
tables are scored, too, by the shipped constants and the hands' true joints: there, many reaches end short of a thing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.domain import Shot
from tocsin.models.touch.clips import Labelled, clips, in_spans
from tocsin.models.touch.config import ReachConfig
from tocsin.models.touch.cues import REDUCED, cues
from tocsin.models.touch.decode import Spot, decode, paired, spots
from tocsin.models.touch.evaluate import ClipResult, alert_figures, f1, operating_figures
from tocsin.models.touch.hands import JOINTS, HandDetector, sided
from tocsin.models.touch.moving import camera_motion
from tocsin.models.touch.reach import ReachModel
from tocsin.models.touch.simulation.scene import VALIDATION_SEEDS, Scene
from tocsin.models.vision.picture import decode_jpeg
from tocsin.models.vision.video import read
from tocsin.pipelines.runtime.formats.video import encoded

SIZE = (288, 512)
GRID = {"moving": (0.12, 0.15, 0.18), "slow": (0.08, 0.11, 0.14), "share": (0.35, 0.45), "empty": (0.2, 0.4, 0.6)}
"""Constants that are tried."""
NEAR = (-0.04, -0.02, 0.0, 0.02, 0.04)
"""Distances between boxes that are tried, as shares of the frame's width."""
OWN = Path(__file__).with_name("touch_homes.json")
KEEP = 10
"""Frames for which a hand that is not found keeps its side."""


@dataclass(frozen=True)
class Clip:
    """A clip as the pipeline sees it.

    Args:
        name: of its file.
        cues: `[T, 2, C]`, see `tocsin.models.touch.cues`.
        joints: `[T, 2, 21, 2]`, shares of the frame.
        cameras: maps from each frame's pixels to the previous frame's.
        truth: one for each labelled span.
    """

    name: str
    cues: Tensor
    joints: NDArray[np.float32]
    cameras: Sequence[NDArray[np.float64]]
    truth: Sequence[Labelled]


def main(folders: Sequence[Path], hands: Path, things: Mapping[str, Any], keep: Path, *, sim: bool) -> None:
    torch.set_num_threads(1)
    keep.mkdir(parents=True, exist_ok=True)
    detector, own = HandDetector(hands), json.loads(OWN.read_text())["spans"]
    recordings = dict[str, list[Clip]]()

    def clip(path: Path, truth: Sequence[Labelled]) -> Clip:
        seen = partial(_seen, path, detector, truth)
        return _kept(keep / f"{path.parent.name}-{path.name}.npz", path.name, truth, seen)

    for folder in folders:
        recordings[folder.name] = [clip(path, [truth]) for path, truth in clips(folder).items()]
        more = [(folder / span["clip"], span) for span in own if (folder / span["clip"]).is_file()]
        by_path = {path: [in_spans({path.name: span})[path.stem] for p, span in more if p == path] for path, _ in more}
        if by_path:
            recordings[f"{folder.name}, own labels"] = [clip(path, truth) for path, truth in by_path.items()]
    grid = [ReachConfig(**dict(zip(GRID, values, strict=True))) for values in product(*GRID.values())]
    print("| recording | judged by | found | touches | alerts | precision | recall | error, frames | releases found |")
    print("|---|---|---|---|---|---|---|---|---|")
    total = dict[str, list[ClipResult]]()
    for name, left_out in recordings.items():
        others = [
            clip for other, some in recordings.items() if other.split(",")[0] != name.split(",")[0] for clip in some
        ]
        chosen = _chosen(grid, [_f1(_results(others, _alerts(config))) for config in grid])
        stops = ReachConfig(empty=-10)
        rows = {
            "shipped constants": _results(left_out, _alerts(ReachConfig())),
            "constants chosen on the others": _results(left_out, _alerts(chosen)),
            "every stop": _results(left_out, _alerts(stops)),
        }
        if things:
            near = max(NEAR, key=lambda distance: _f1(_results(others, _near(things, distance))))
            rows["near a thing"] = _results(left_out, _near(things, near))
        for judge, results in rows.items():
            total.setdefault(judge, []).extend(results)
            _print(name, judge, results)
        print(
            f"<!-- {name}: moving {chosen.moving}, slow {chosen.slow}, share {chosen.share}, empty {chosen.empty} -->"
        )
    for judge, results in total.items():
        _print("all", judge, results)
    if sim:
        tables = [_simulated(seed, keep) for seed in VALIDATION_SEEDS]
        results = [
            replace(result, misses=Scene(seed, rate=30).misses)
            for seed, clip in zip(VALIDATION_SEEDS, tables, strict=True)
            for result in _results([clip], _alerts(ReachConfig()))
        ]
        _print("simulated tables", "shipped constants", results)
        figures = operating_figures(results, (0, 0), tolerance=3)
        print(f"near misses that rang, per minute: {figures['missed_rings_per_minute']:.1f}")


def _chosen(grid: Sequence[ReachConfig], scores: Sequence[float]) -> ReachConfig:
    """The best of the constants; of equals the nearest to their mean."""
    best = [config for config, score in zip(grid, scores, strict=True) if score == max(scores)]
    values = np.array([[getattr(config, name) for name in GRID] for config in best])
    apart = (values - values.mean(0)) / [max(tried) for tried in GRID.values()]
    return best[int(np.linalg.norm(apart, axis=1).argmin())]


def _kept(file: Path, name: str, truth: Sequence[Labelled], seen: Callable[[], Clip]) -> Clip:
    """Return a clip that is stored for later runs."""
    if not file.exists():
        clip = seen()
        np.savez(file, cues=clip.cues.numpy(), joints=clip.joints, cameras=np.stack(clip.cameras))
    stored = np.load(file)
    return Clip(name, torch.from_numpy(stored["cues"]), stored["joints"], list(stored["cameras"]), truth)


def _seen(path: Path, detector: HandDetector, truth: Sequence[Labelled]) -> Clip:
    """Find hands in a clip and compute its cues, as the pipeline does."""
    sent = (decode_jpeg(encoded(Shot(frame)), min_size=SIZE) for frame in read(path, rate=None, size=None))
    frames = [cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA) for frame in sent]
    last, unseen = np.zeros((2, JOINTS, 2), np.float32), [-1, -1]
    joints = np.empty((len(frames), 2, JOINTS, 2), np.float32)
    for at, frame in enumerate(frames):
        (found,) = detector(torch.from_numpy(np.asarray(frame)).permute(2, 0, 1)[None])
        joints[at] = sided(found, last, unseen, (float(SIZE[1]), float(SIZE[0])))
        for side in range(2):
            if not np.isnan(joints[at, side]).any():
                last[side], unseen[side] = joints[at, side], 0
            elif unseen[side] >= 0:
                unseen[side] = unseen[side] + 1 if unseen[side] + 1 < KEEP else -1
    return _judged(path.name, frames, joints, truth)


def _simulated(seed: int, keep: Path) -> Clip:
    """Return a simulated table with the true joints of the hands that are visible."""
    scene = Scene(seed, size=SIZE, rate=30)
    truth = [Labelled(tuple(scene.touches), hands=True)]

    def seen() -> Clip:
        joints, frames = np.full((len(scene), 2, JOINTS, 2), np.nan, np.float32), list[NDArray[np.uint8]]()
        for at, shot in enumerate(scene):
            frames.append(shot.picture)
            for side, hand in enumerate(scene.script.hands):
                points = np.concatenate([hand.wrist[at][None], hand.fingers[at].reshape(-1, 3)])
                if not np.isnan(shot.hands[side]).any():
                    joints[at, side] = scene.head.project(points, at)[0] / [SIZE[1], SIZE[0]]
        return _judged(str(seed), frames, joints, truth)

    return _kept(keep / f"{seed}.npz", str(seed), truth, seen)


def _judged(name: str, frames: Sequence[NDArray[Any]], joints: NDArray[np.float32], truth: Sequence[Labelled]) -> Clip:
    """Return a clip with its cues."""
    greys = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    before = [0, *range(len(frames) - 1)]
    pairs, hands = (torch.from_numpy(np.stack([each[before], each], 1)) for each in (greys, joints))
    hands[0, 0] = torch.nan
    seen = cues(pairs, hands)
    seen[0] = 0
    cameras = [camera_motion(greys[max(at - 1, 0)], grey, REDUCED) for at, grey in enumerate(greys)]
    return Clip(name, seen, joints, cameras, truth)


def _alerts(config: ReachConfig) -> Callable[[Clip], list[Spot]]:
    model = ReachModel(config, SIZE)

    def judge(clip: Clip) -> list[Spot]:
        count, rows = len(clip.cues), clip.cues.flatten(1)
        line = torch.cat([rows.new_zeros(model.past, model.width), rows, rows.new_zeros(model.ahead, model.width)])
        there = torch.zeros(len(line), dtype=torch.bool)
        there[model.past : model.past + count] = True
        length = model.past + 1 + model.ahead
        scores, displacement = model.predict(line.unfold(0, length, 1).mT, there.unfold(0, length, 1)).unbind(1)
        c = config.decode
        found = spots(decode(scores, displacement, radius=c.radius), apart=c.apart)
        return _ends((touch.hand, touch.contact, touch.release) for touch in paired(found, c.thresholds))

    return judge


def _near(things: Mapping[str, Any], distance: float) -> Callable[[Clip], list[Spot]]:
    def judge(clip: Clip) -> list[Spot]:
        gaps = np.full((len(clip.joints), 2), np.inf)
        for frame, *box in things.get(clip.name, ()):
            for at, carried in _carried(clip, int(frame), np.array(box)):
                for side, joints in enumerate(clip.joints[at]):
                    if not np.isnan(joints).any():
                        gaps[at, side] = min(gaps[at, side], _gap(joints, carried))
        touches = []
        for side in range(2):
            edges = np.flatnonzero(
                np.diff(np.concatenate([[False], gaps[:, side] < distance, [False]]).astype(np.int8))
            )
            touches += [(side, int(first), int(end)) for first, end in edges.reshape(-1, 2)]
        return _ends(touches)

    return judge


def _carried(clip: Clip, frame: int, box: NDArray[np.float64]) -> Iterable[tuple[int, NDArray[np.float64]]]:
    """Yield the box of a thing at rest in each frame, carried by the camera's motion from the frame in which it was marked."""
    scale = np.array([SIZE[1], SIZE[0]])
    corners = box.reshape(2, 2) * scale
    moved = corners
    for at in range(frame, -1, -1):
        yield at, (moved / scale).ravel()
        moved = moved @ clip.cameras[at][:2, :2].T + clip.cameras[at][:2, 2]
    moved = corners
    for at in range(frame + 1, len(clip.joints)):
        back = np.linalg.inv(clip.cameras[at])
        moved = moved @ back[:2, :2].T + back[:2, 2]
        yield at, (moved / scale).ravel()


def _gap(joints: NDArray[np.float32], box: NDArray[np.float64]) -> float:
    """Distance of the box around joints from a box, as a share of the frame's width; negative if they overlap."""
    unit = np.array([1, SIZE[0] / SIZE[1]])
    low, high = joints.min(0) * unit, joints.max(0) * unit
    apart = np.maximum(box[:2] * unit - high, low - box[2:] * unit)
    return float(np.hypot(*np.maximum(apart, 0)) if (apart > 0).any() else apart.max())


def _ends(touches: Iterable[tuple[int, int, int | None]]) -> list[Spot]:
    ends = [(hand, kind, at) for hand, *both in touches for kind, at in enumerate(both) if at is not None]
    return [Spot(hand, kind, at, 1.0) for hand, kind, at in sorted(ends, key=lambda end: end[2])]


def _results(some: Sequence[Clip], judge: Callable[[Clip], list[Spot]]) -> list[ClipResult]:
    return [
        ClipResult(found, truth.touches, (), len(clip.cues), truth.span)
        for clip, found in [(clip, judge(clip)) for clip in some]
        for truth in clip.truth
    ]


def _f1(results: Sequence[ClipResult]) -> float:
    figures = alert_figures(results, hands=False)
    return f1(figures["precision"] or 0, figures["recall"] or 0)


def _print(name: str, judge: str, results: Sequence[ClipResult]) -> None:
    f = alert_figures(results, hands=False)
    ratios = ["" if f[key] is None else f"{f[key]:.2f}" for key in ("precision", "recall", "error")]
    cells = [name, judge, f["found"], f["touches"], f["alerts"], *ratios, f"{f['releases_found']} of {f['releases']}"]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--hands", type=Path, required=True)
    parser.add_argument("--things", type=Path)
    parser.add_argument("--sim", action="store_true")
    parser.add_argument("--keep", type=Path, default=Path("build/touch_real"))
    args = parser.parse_args()
    main(args.folders, args.hands, json.loads(args.things.read_text()) if args.things else {}, args.keep, sim=args.sim)
