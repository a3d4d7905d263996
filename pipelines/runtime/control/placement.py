"""How many workers a deployment needs, and which shards each of them gets."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

BACKLOG_S = 2.0
"""A lag that can be processed within this time is no backlog."""

Shard = TypeVar("Shard", bound=Hashable)


@dataclass(frozen=True)
class ScalingPolicy:
    """Limits and thresholds of autoscaling.

    Args:
        least, most: number of workers.
        catch_up_s: a worker is added if the backlog will not be processed within this time.
        look_s: period over which the rate is measured. After each change no worker is added for this long.
        calm_s: a worker is removed after one fewer would have sufficed for this long.
        share: one worker fewer suffices if the others would be busy for less than this share of their time.
    """

    least: int = 1
    most: int = 1
    catch_up_s: float = 30
    look_s: float = 10
    calm_s: float = 120
    share: float = 0.6


class _Sample(NamedTuple):
    at: float
    read: int
    lag: int
    busy: float


class Autoscaler:
    """Decides by the lag and by the rate at which it falls. It adds or removes one worker at a time.

    Args:
        workers: current number of workers.
    """

    def __init__(self, scaling: ScalingPolicy, workers: int) -> None:
        self._scaling = scaling
        self.workers = min(max(workers, scaling.least), scaling.most)
        self._samples: deque[_Sample] = deque()

    def update(self, now: float, read: int, lag: int, busy: float) -> int:
        """How many workers there should be.

        Args:
            now: s, monotonic.
            read: records that all shards have read so far.
            lag: records that they have not read yet.
            busy: seconds of work per second, summed over all shards.
        """
        s, samples = self._scaling, self._samples
        samples.append(_Sample(now, read, lag, busy))
        while len(samples) > 1 and samples[1].at <= now - max(s.look_s, s.calm_s):
            samples.popleft()
        if s.least < s.most:
            if self.workers < s.most and self._too_few(now):
                self._resize(1)
            elif self.workers > s.least and self._too_many(now):
                self._resize(-1)
        return self.workers

    def _resize(self, by: int) -> None:
        self.workers += by
        self._samples.clear()

    def _too_few(self, now: float) -> bool:
        """Whether the backlog grows, or falls too slowly."""
        s, last = self._scaling, self._samples[-1]
        if self._samples[0].at > now - s.look_s:
            return False
        earlier = next(x for x in reversed(self._samples) if x.at <= now - s.look_s)
        seconds = last.at - earlier.at
        decrease = (earlier.lag - last.lag) / seconds
        return last.lag > BACKLOG_S * self._rate(earlier) and last.lag > max(decrease, 0) * s.catch_up_s

    def _too_many(self, now: float) -> bool:
        """Whether one worker fewer would have sufficed all the time."""
        s, first = self._scaling, self._samples[0]
        if first.at > now - s.calm_s:
            return False
        busy = sum(x.busy for x in self._samples) / len(self._samples)
        max_lag = max(x.lag for x in self._samples)
        return busy < s.share * (self.workers - 1) and max_lag <= BACKLOG_S * self._rate(first)

    def _rate(self, since: _Sample) -> float:
        """Records per second that were read since the sample `since`."""
        last = self._samples[-1]
        return max(last.read - since.read, 1) / (last.at - since.at)


def place_shards(shards: Sequence[Shard], slots: int, current: Mapping[Shard, int]) -> dict[Shard, int]:
    """Assign each shard a worker slot: evenly, and with as few moves as that takes.

    Args:
        slots: number of slots.
        current: each shard's current slot.
    """
    by_slot: list[list[Shard]] = [[] for _ in range(slots)]
    unassigned: list[Shard] = []
    for shard in shards:
        slot = current.get(shard, slots)
        (by_slot[slot] if slot < slots else unassigned).append(shard)
    for shard in unassigned:
        min(by_slot, key=len).append(shard)
    while len(fullest := max(by_slot, key=len)) > len(emptiest := min(by_slot, key=len)) + 1:
        emptiest.append(fullest.pop())
    return {shard: slot for slot, assigned in enumerate(by_slot) for shard in assigned}
