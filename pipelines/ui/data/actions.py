"""What a person does on the page: acknowledge, silence, replay. Each is refused unless changes are allowed."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tocsin.pipelines.runtime import Alert, ConfigError, Unavailable
from tocsin.pipelines.runtime.admin.acknowledgement import PublishedAlert, act, publish
from tocsin.pipelines.runtime.kafka.redelivery import PublishedDeadLetter, Redelivered
from tocsin.pipelines.ui.data.board import AlertBoard
from tocsin.pipelines.ui.data.letters import DeadLetters

log = logging.getLogger(__name__)
MUTES = {"30min": "30 minutes", "2h": "2 hours", "8h": "8 hours", "24h": "a day"}
"""Durations of a mute that the page offers."""
HOURS = {"30min": 0.5, "2h": 2.0, "8h": 8.0, "24h": 24.0}
ANSWER_S = 90.0
"""Seconds that `tocsin silence` may take: it joins Ray."""


class Actions:
    """Does what a person orders on the page.

    Args:
        kafka: options of kafka-python's clients.
        silence: returns the command that mutes an asset, from pipeline, key and duration.
        allowed: whether changes are allowed at all.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        board: AlertBoard,
        letters: DeadLetters,
        *,
        silence: Callable[[str, str, str], Sequence[str]],
        allowed: bool,
    ) -> None:
        self._kafka, self._board, self._letters, self._silence, self.allowed = kafka, board, letters, silence, allowed

    def acknowledge(self, id: str, *, by: str, reason: str) -> Alert:
        """Acknowledge an alert; see `acknowledgement.act`.

        Raises:
            ConfigError: changes are not allowed, the alert is not on the board, or name or reason does not fit.
            Refused, Unavailable: see `publish`.
        """
        published = self._alert(id)
        event = act(published, "acknowledged", by=by, reason=reason, now=datetime.now(UTC))
        publish(self._kafka, event, published.partition)
        log.info("%s acknowledges alert %s of %s", event.by, id, event.pipeline)
        return event

    def silence(self, id: str, *, by: str, reason: str, last: str) -> Alert:
        """Mute the asset of an alert in its pipeline, as `tocsin silence` does, and publish who did so and why.

        The mute comes first: an event without a mute would claim what is not so.

        Args:
            last: one of `MUTES`.

        Raises:
            ConfigError, Refused, Unavailable: as for `acknowledge`; or the pipeline does not run.
        """
        published, now = self._alert(id), datetime.now(UTC)
        if last not in MUTES:
            raise ConfigError(f"silence: expected one of {', '.join(MUTES)}, got {last!r}; choose one")
        event = act(published, "silenced", by=by, reason=reason, now=now, until=now + timedelta(hours=HOURS[last]))
        _run(self._silence(event.pipeline, event.key, last))
        publish(self._kafka, event, published.partition)
        log.info("%s silences %s of %s for %s", event.by, event.key, event.pipeline, last)
        return event

    def replay(self, chosen: Collection[PublishedDeadLetter]) -> Redelivered:
        """Send dead letters' records again; see `DeadLetters.replay`."""
        self._check()
        return self._letters.replay(chosen)

    def _alert(self, id: str) -> PublishedAlert:
        self._check()
        if (state := self._board.get(id)) is None:
            raise ConfigError(f"alert {id}: expected one that this page still shows, got none; reload the page")
        return PublishedAlert(state.alert, state.partition)

    def _check(self) -> None:
        if not self.allowed:
            raise ConfigError("this page is read-only; start it with `tocsin ui --allow-changes`")


def _run(command: Sequence[str]) -> None:
    """Run a `tocsin` command. Its error is its last line on stderr.

    Raises:
        Unavailable: it failed, or took too long.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise Unavailable(
            f"tocsin silence: expected it to end within {ANSWER_S:.0f} s, got {type(reason).__name__}"
        ) from reason
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["no error reported"])[-1].removeprefix("tocsin: ")
        raise Unavailable(line)
