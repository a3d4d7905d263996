"""When a worker is added or removed, and which shards move then."""

from collections.abc import Iterable
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from tocsin.pipelines.runtime.control.placement import Autoscaler, ScalingPolicy, place_shards

SCALING = ScalingPolicy(least=1, most=3, catch_up_s=30, look_s=10, calm_s=60, share=0.6)


def _workers(scaler: Autoscaler, loads: Iterable[tuple[float, float, float]], start: float = 0) -> list[int]:
    """Return the number of workers after each second. A load is (records read, records behind, busy seconds) of one second."""
    read, said = 0.0, []
    for second, (rate, lag, busy) in enumerate(loads):
        read += rate
        said.append(scaler.update(start + second, round(read), round(lag), busy))
    return said


def test_a_growing_backlog_calls_for_one_worker_more_at_a_time() -> None:
    scaler = Autoscaler(SCALING, 1)
    said = _workers(scaler, [(1000, 500 * s, 1.0) for s in range(40)])
    assert said[:10] == [1] * 10
    assert said[10] == 2
    assert said[20:22] == [2, 3]  # the second worker has 10 s to take effect
    assert said[-1] == 3


def test_a_backlog_that_is_worked_off_soon_calls_for_none() -> None:
    falling = [(3000, 60_000 - 2500 * s, 1.0) for s in range(20)]
    assert set(_workers(Autoscaler(SCALING, 1), falling)) == {1}


def test_a_backlog_that_falls_too_slowly_calls_for_one() -> None:
    falling = [(1000, 600_000 - 100 * s, 1.0) for s in range(12)]
    assert _workers(Autoscaler(SCALING, 1), falling)[-1] == 2


def test_the_lag_of_a_steady_stream_is_no_backlog() -> None:
    steady = [(5000, 400 + 100 * (s % 3), 0.9) for s in range(100)]
    assert set(_workers(Autoscaler(SCALING, 1), steady)) == {1}


def test_a_worker_goes_when_the_others_have_sufficed_for_long() -> None:
    calm = [(1000, 20, 0.5) for _ in range(62)]
    said = _workers(Autoscaler(SCALING, 2), calm)
    assert said[59:61] == [2, 1]
    assert set(_workers(Autoscaler(SCALING, 2), [(1000, 20, 0.7) for _ in range(200)])) == {2}


def test_nobody_goes_while_there_was_a_backlog() -> None:
    burst = [(1000, 50_000 if s == 5 else 20, 0.1) for s in range(65)]
    assert set(_workers(Autoscaler(SCALING, 2), burst)) == {2}


def test_fixed_workers_stay() -> None:
    assert set(_workers(Autoscaler(ScalingPolicy(2, 2), 2), [(10, 10_000 * s, 1.0) for s in range(200)])) == {2}


@given(
    shards=st.lists(st.integers(0, 50), unique=True, max_size=20),
    places=st.integers(1, 6),
    data=st.data(),
)
def test_shards_are_spread_evenly_with_as_few_moves_as_that_takes(
    shards: list[int], places: int, data: st.DataObject
) -> None:
    now = {s: data.draw(st.integers(0, 7)) for s in shards if data.draw(st.booleans())}
    placed = place_shards(shards, places, now)
    assert sorted(placed) == sorted(shards)
    sizes = sorted(list(placed.values()).count(p) for p in range(places))
    assert sizes[-1] - sizes[0] <= 1
    held = [sum(now.get(s) == p for s in shards) for p in range(places)]
    large, least = len(shards) % places, len(shards) // places
    most = ceil(len(shards) / places)
    stay = sum(sorted(min(h, most) for h in held)) if not large else None
    if stay is None:  # the fullest workers keep one shard more
        order = sorted(held, reverse=True)
        stay = sum(min(h, least + 1) for h in order[:large]) + sum(min(h, least) for h in order[large:])
    assert sum(placed[s] == now.get(s) for s in shards) == stay
