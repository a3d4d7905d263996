"""Live streams that are read at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import Queue
from threading import Event, Thread

from tocsin.models.vision.video import Frame, read

WAITING = 4
"""Frames of all streams that wait to be taken; a stream is read no further until one is."""


def merged(urls: Sequence[str], *, rate: float) -> Iterator[tuple[int, Frame]]:
    """The frames of live streams as they come, until all have ended.

    Args:
        urls: see `tocsin.models.vision.video.read`.
        rate: frames a second of each stream.

    Yields:
        The stream's place in `urls`, and a frame.

    Raises:
        ValueError: a stream cannot be opened or decoded.
    """
    arrived: Queue[tuple[int, Frame | ValueError | None]] = Queue(WAITING)
    over = Event()

    def pull(at: int) -> None:
        end: ValueError | None = None
        try:
            for frame in read(urls[at], rate=rate, size=None):
                arrived.put((at, frame))
                if over.is_set():
                    return
        except ValueError as reason:
            end = reason
        arrived.put((at, end))

    for at in range(len(urls)):
        Thread(target=pull, args=(at,), name=f"stream {at}", daemon=True).start()
    open_streams = len(urls)
    try:
        while open_streams:
            at, frame = arrived.get()
            if isinstance(frame, ValueError):
                raise frame
            if frame is None:
                open_streams -= 1
            else:
                yield at, frame
    finally:
        over.set()
        while not arrived.empty():  # let threads that wait see that it is over
            arrived.get()
