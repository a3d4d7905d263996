"""What can go wrong, as one tree: catch `TocsinError` for all of it."""


class TocsinError(Exception):
    """Base of every error that Tocsin raises on purpose; its text is one line that ends with what to do."""


class ConfigError(TocsinError):
    """A setting, a pipeline or a model's config is wrong."""


class Unavailable(TocsinError):
    """Something outside does not answer: broker, lake, registry, cluster."""


class Refused(TocsinError):
    """Something outside answers, and gives the same answer until a person changes a right, a setting or a version."""


class ModelError(TocsinError):
    """A model is missing, unreadable or does not fit its pipeline."""


class Fenced(TocsinError):
    """Another owner took this shard over; this process must end without another word."""


class Lost(TocsinError):
    """What recovery needs is gone; `--on-gap skip` records the gap and goes on."""


class TopicReplaced(Lost):
    """The input topic was deleted and made again: its offsets mean other records now."""


class PositionLost(Lost):
    """The next offset to read is no longer (or not yet) inside the topic's log."""


class RecordsCorrupt(Lost):
    """The log holds bytes that are no records any more."""


class FrameLost(Lost):
    """A frame that was judged is no longer where its message says, and has to be judged again."""


class JournalLost(Lost):
    """A checkpoint exists, but the journal that must go with it does not."""


class LakeLost(Lost):
    """The table that the journal goes with is gone, older than the journal says, or lacks files that it names."""


class SnapshotLost(Lost):
    """The snapshot that the last checkpoint names is missing or unreadable."""


class StateMismatch(TocsinError):
    """The snapshot was written by a pipeline whose state has another shape."""
