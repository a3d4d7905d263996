"""Named points at which a test can kill or stop this process. They have no effect in production.

If `TOCSIN_CRASH` names a folder, a file `<point>` in it arms the point. Its text is the signal's name (`SIGKILL`, `SIGSTOP`).
An armed point waits until both uncommitted rows and unpublished alerts are in flight, writes `<point>.hit` and sends the signal.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

POINTS = (
    "alerts.begin",
    "alerts.sent",
    "alerts.committed",
    "checkpoint.begin",
    "checkpoint.marked",
    "checkpoint.files",
    "checkpoint.snapshot",
    "checkpoint.delta",
    "checkpoint.dropped",
    "takeover.fenced",
    "takeover.owned",
    "takeover.restored",
    "takeover.rerun",
    "takeover.live",
    "reset.owned",
    "reset.said",
    "reset.snapshot",
    "reset.delta",
    "backfill.written",
)
RESHARDING = ("reshard.taken", "reshard.written", "reshard.journals", "reshard.committed")

in_flight: Callable[[], tuple[int, int]] = lambda: (0, 0)  # noqa: E731
"""Uncommitted rows and unpublished alerts of this process, set by the shard."""


def point(name: str, *, waits: bool = True) -> None:
    """Kill or stop this process if a test has armed the point; with `waits`, once rows and alerts are in flight.

    Recovery has none in flight yet.
    """
    if (folder := os.environ.get("TOCSIN_CRASH")) and (armed := Path(folder) / name).exists():
        _fire(armed, waits)


def _fire(armed: Path, waits: bool) -> None:
    deadline = time.monotonic() + 10
    while not all(flight := in_flight()) and waits:
        if time.monotonic() > deadline:
            return
        time.sleep(0.0002)
    try:
        signal_name = armed.read_text().strip()
        armed.rename(armed.with_suffix(f"{armed.suffix}.hit"))
    except FileNotFoundError:  # another thread or process took it
        return
    armed.with_suffix(f"{armed.suffix}.hit").write_text(
        f"{signal_name} {os.getpid()} rows={flight[0]} alerts={flight[1]}"
    )
    os.kill(os.getpid(), getattr(signal, signal_name))
    time.sleep(0.05)
