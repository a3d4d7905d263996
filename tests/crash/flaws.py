"""The recovery rule with one guard taken out, to see that the tests notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

FLAWS: Mapping[str, Callable[[], None]] = {}
