"""What can go wrong, as one tree: catch `TocsinError` for all of it."""


class TocsinError(Exception):
    """Base of every error that Tocsin raises on purpose; its text is one line that ends with what to do."""


class ConfigError(TocsinError):
    """A setting, a pipeline or a model's config is wrong."""


class Unavailable(TocsinError):
    """An external system does not answer: broker, lake, registry or cluster."""


class Undecoded(Unavailable):
    """Records have been read, but something that decoding them needs does not answer: a schema registry."""


class Refused(TocsinError):
    """An external system refuses a request, and will until a person changes a right, a setting or a version."""


class ModelError(TocsinError):
    """A model is missing, unreadable or does not fit its pipeline."""


class Fenced(TocsinError):
    """Another process owns this shard now; this one must end without writing anything more."""


class Lost(TocsinError):
    """Data that recovery needs is gone; with `--on-gap skip` the shard records the gap and continues."""


class TopicReplaced(Lost):
    """The input topic was deleted and created again; its offsets now name other records."""


class PositionLost(Lost):
    """The next offset to read is before the start or after the end of the topic's log."""


class RecordsCorrupt(Lost):
    """The log holds bytes that can no longer be read as records."""


class FrameLost(Lost):
    """Recovery has to process a frame again, but the frame is no longer where its message says."""


class SchemaLost(Lost):
    """Recovery has to decode a message again, but the registry no longer has the message's schema."""


class JournalLost(Lost):
    """A checkpoint exists, but the journal that must go with it does not."""


class LakeLost(Lost):
    """The table is gone, lacks the checkpoint that the journal builds on, or lacks files that its log names."""


class SnapshotLost(Lost):
    """The snapshot that the last checkpoint names is missing or unreadable."""


class StateMismatch(TocsinError):
    """The snapshot was written by a pipeline whose state has another shape."""
