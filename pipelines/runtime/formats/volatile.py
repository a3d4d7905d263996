"""Reasons of rejections that lie outside the log: a store or a registry may answer differently next time.

The journal records the records that were rejected for one of them, so that a re-run rejects the same ones.
"""

MISSING, UNREACHABLE, ALTERED = "FrameMissing", "FrameUnreachable", "FrameAltered"
"""A frame that a message refers to is not there, its store does not answer, or it is another file."""
SCHEMA_UNKNOWN = "SchemaUnknown"
"""The schema registry does not know the schema that a message names."""
VOLATILE = (MISSING, UNREACHABLE, ALTERED, SCHEMA_UNKNOWN)
