"""Any mixture of JSON messages gives what the oracle gives, which is Python's json, one record at a time."""

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.codec_samples import (
    BAD_VALUES,
    EPOCH,
    GOOD,
    GOOD_VALUES,
    NUMBERS_ONLY,
    SCHEMA,
    record,
)
from tocsin.pipelines.runtime.formats import json as json_messages
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.json import HALVED_ROWS


class NoReadingError(Exception):
    pass


def refuse(_):
    raise NoReadingError


def finite(text):
    return float(text) if math.isfinite(float(text)) else refuse(text)


def whole(text):
    return int(text) if math.isfinite(finite(text)) else refuse(text)


def unrepeated(pairs):
    found = dict(pairs)
    found["\0repeated"] = len(found) < len(pairs)
    return found


def integer(content):
    """Return a whole number as an integer however it is written, unless it may have been rounded."""
    if type(content) is float and content.is_integer() and abs(content) < 2**53:
        return int(content)
    return content


def expected_row(value, schema, unknown):
    """Return the row that the schema makes of a value, or None."""
    ranges = {"cycle": (-(2**63), 2**63), "small": (-(2**15), 2**15), "count": (0, 2**64)}
    try:
        found = json.loads(
            value.decode("utf-8"),
            parse_constant=refuse,
            parse_float=finite,
            parse_int=whole,
            object_pairs_hook=unrepeated,
        )
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (NoReadingError, ValueError, RecursionError, AttributeError):
        return None
    if type(found) is not dict or found.pop("\0repeated") or (unknown == "reject" and set(found) - set(schema.names)):
        return None
    row = []
    for f in schema:
        content = found.get(f.name)
        if content is None:
            if not f.nullable:
                return None
        elif f.name == "at":
            content = expected_time(content)
        elif f.name in ranges:
            low, high = ranges[f.name]
            content = integer(content)
            content = content if type(content) is int and low <= content < high else NoReadingError
        elif f.name in ("s1", "s2"):
            content = float(content) if type(content) in (int, float) else NoReadingError
            if f.name == "s2" and content is not NoReadingError:
                with np.errstate(over="ignore"):
                    content = float(np.float32(content))
                content = content if math.isfinite(content) else NoReadingError
        elif type(content) is not {"unit": str, "on": bool}[f.name]:
            content = NoReadingError
        if content is NoReadingError:
            return None
        row.append(content)
    return row


def expected_time(content):
    first, end = datetime(1700, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
    content = integer(content)
    if type(content) is int and abs(content) < 10**14:
        time = EPOCH + timedelta(milliseconds=content)
        return time if first <= time < end else NoReadingError
    shape = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
    if type(content) is not str or not re.fullmatch(shape, content, re.ASCII):
        return NoReadingError
    try:
        time = datetime.fromisoformat(content)
    except ValueError:
        return NoReadingError
    return time.astimezone(UTC) if 1700 <= time.year < 2200 else NoReadingError


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53 + 1, 2**63, -(2**63) - 1, 2**64, 3.4028235677973366e38, 3.402823567797336e38, 1e39, -0.0]),
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, TEXT, st.sampled_from(["12", "true", "a:b", '"', "[", "{", "\\", ":"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=4,
)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
CLOCKS = st.one_of(
    st.datetimes(datetime(1600, 1, 1), datetime(2300, 1, 1), timezones=ZONES).map(datetime.isoformat),
    st.integers(-(10**13), 10**13),
    st.sampled_from(
        ["2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "\uff12026-01-01T00:00:00Z"]
    ),
)
FIELDS = {
    "unit": TEXT, "cycle": st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9).map(float)), "s1": NUMBERS, "s2": NUMBERS,
    "small": st.integers(-(2**15), 2**15 - 1), "count": st.integers(0, 2**64 - 1), "on": st.booleans(), "at": CLOCKS,
}  # fmt: skip
SPACES = st.sampled_from(["", " ", "\r", "\t", "\n"])


@st.composite
def objects(draw, schema=SCHEMA):
    """Draw a JSON object near the schema: fields are missing, of other types, repeated or unknown, in any JSON notation."""
    pairs = [
        (name, draw(content))
        for name, content in FIELDS.items()
        if name in schema.names and (name in GOOD or draw(st.booleans()))
    ]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        pairs.append((draw(st.one_of(st.sampled_from([*FIELDS, "x", "x:y"]), TEXT)), draw(ANYTHING)))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(pairs) - 1))
        pairs[place] = (pairs[place][0], draw(ANYTHING))
    pairs = draw(st.permutations(pairs)) if draw(st.booleans()) else pairs
    space, ascii_only = draw(SPACES), draw(st.booleans())
    cells = (
        f"{json.dumps(n, ensure_ascii=ascii_only)}{space}:{json.dumps(c, ensure_ascii=ascii_only)}" for n, c in pairs
    )
    return ("{" + f",{space}".join(cells) + "}").encode()


@st.composite
def damaged(draw, schema=SCHEMA):
    """Draw an object with some bytes replaced, removed or inserted."""
    value = bytearray(draw(objects(schema)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(value)))
        end = start + draw(st.integers(0, 3))
        value[start:end] = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"}{", b"\n", b":", b'"', b"1", b"\\"]))
        )
    return bytes(value)


def values(schema):
    return st.one_of(
        objects(schema), objects(schema), damaged(schema), st.binary(max_size=20), st.just(b""), st.just(None),
        st.sampled_from([value for value, *_ in BAD_VALUES.values()]), st.sampled_from(list(GOOD_VALUES.values())),
    )  # fmt: skip


def whole_polls_or_halves_of_one(halved):
    """Set where halving ends. By default, a small poll with one malformed value takes the slow path as a whole."""
    return mock.patch.multiple(json_messages, SLOW_ROWS=0, HALVED_ROWS=1 if halved else HALVED_ROWS)


@pytest.mark.parametrize("schema", [SCHEMA, NUMBERS_ONLY], ids=["with strings", "numbers only"])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 40), st.sampled_from(["ignore", "reject"]), st.booleans())
def test_any_mixture_gives_what_python_reads_one_by_one(schema, data, beside, unknown, halved):
    mixture = data.draw(st.lists(values(schema), min_size=1, max_size=20))
    names = set(schema.names) & {*GOOD, "at"}
    good = [{**GOOD, "cycle": i, "at": 1000 * i} for i in range(beside)]
    mixture += [json.dumps({name: row[name] for name in names}).encode() for row in good]
    if data.draw(st.booleans()):
        mixture.reverse()
    with whole_polls_or_halves_of_one(halved):
        batch, letters = Codec(topic="plant", schema=schema, unknown=unknown).decode(
            [record(value, 7 * i) for i, value in enumerate(mixture)]
        )
    rows = {7 * i: expected_row(value, schema, unknown) for i, value in enumerate(mixture)}
    assert [letter.offset for letter in letters] == [offset for offset, row in rows.items() if row is None]
    assert all(letter.value is mixture[letter.offset // 7] for letter in letters)
    decoded = [[*row.values()] for row in batch.to_pylist()]
    assert [row[1] for row in decoded] == [offset for offset, row in rows.items() if row is not None]
    assert [row[4:] for row in decoded] == [row for row in rows.values() if row is not None]
