"""Which keys judge a model: those that are held out, and folds of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from tocsin.models.rul.data import Lives


def hold_out(known: Lives, share: float, *, folds: int) -> Tensor:
    """Numbers of the keys that are held out: a share of those that failed, and of those that did not.

    A hash of the key's name selects the keys. Most of them stay held out with other seeds or more keys, so that models trained on
    different days can be compared. A single key that failed says little, and training would miss it: where the share comes to less
    than two, none is held out if there are `folds`, which judge every key, and one if there are none.

    Raises:
        ValueError: no key failed, or all that did would be held out.
    """
    ordered = sorted(range(len(known.keys)), key=lambda number: hashlib.sha256(known.keys[number].encode()).digest())
    failed = [number for number in ordered if known.failed[number]]
    survived = [number for number in ordered if not known.failed[number]]
    if not failed:
        raise ValueError(
            f"expected keys that failed, got {len(survived)} that did not; training learns from failures: add a recording of one"
        )
    count = round(share * len(failed))
    if not 0 <= count < max(len(failed), 2):
        raise ValueError(
            f"validation={share:g} holds out {count} of {len(failed)} keys that failed; leave at least one"
        )
    if share and count < 2:
        count = 0 if folds else min(1, len(failed) - 1)
    held = failed[:count] + survived[: round(share * len(survived)) if count else 0]
    return torch.tensor(sorted(held), dtype=torch.int64)


def deal(known: Lives, count: int) -> Iterator[Tensor]:
    """The rows of each fold of the keys, `[R] bool`; lives of one name are in one fold.

    The keys that failed are dealt out first, so that no fold has all of them.
    """
    names = sorted(set(known.keys))
    place = dict(zip(names, torch.randperm(len(names)).tolist(), strict=True))
    failed = dict(zip(known.keys, known.failed.tolist(), strict=True))
    dealt = {key: at for at, key in enumerate(sorted(names, key=lambda key: (not failed[key], place[key])))}
    fold = torch.tensor([dealt[key] % count for key in known.keys])[known.engine]
    for number in range(count):
        yield fold == number
