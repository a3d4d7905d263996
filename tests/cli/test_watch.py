"""`status --watch` survives what it watches: a supervisor that restarts, a Ray cluster that is started anew."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tocsin.pipelines.cli import cluster, status
from tocsin.pipelines.runtime.declare.errors import ConfigError, TocsinError, Unavailable
from tocsin.pipelines.runtime.settings import Settings

AWAY = Unavailable("supervisor: expected its status, got ActorDiedError")
NONE = ConfigError("pipeline job: expected it to run on this Ray cluster, got: none")
CUT = ConnectionError("Failed during this or a previous request")  # what a client of Ray raises


class Watched:
    """Replaces the search for supervisors. Each look raises an error or finds one name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: str | Exception) -> None:
        self._looks, self.joined, self.told = iter(looks), 0, threading.Event()
        self._left = len(looks)
        monkeypatch.setattr(cluster, "ask", lambda actor, timeout: actor)
        monkeypatch.setattr(status, "status_report", lambda settings, said: said)

    def found(self) -> Sequence[Any]:
        self._left -= 1
        if not self._left:
            self.told.set()
        if isinstance(found := next(self._looks), Exception):
            raise found
        return [found]

    def join(self) -> None:
        self.joined += 1

    def follow(self) -> None:
        status.follow(Settings(), self.found, self.told, json=True, every=0.01, reconnect=self.join)


def test_a_watch_joins_ray_anew_after_each_failed_look_and_finds_the_new_supervisor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = Watched(monkeypatch, "first", AWAY, AWAY, NONE, CUT, "second", "second")
    watched.follow()
    said = capsys.readouterr()
    assert [json.loads(line)["pipelines"] for line in said.out.splitlines()] == [["first"], ["second"], ["second"]]
    assert watched.joined == 4
    assert said.err.splitlines() == [str(AWAY), str(NONE), str(CUT)]


@pytest.mark.parametrize("looks", [[AWAY], [NONE, "later"], [AWAY, "later"]])
def test_what_is_not_there_at_the_first_look_is_an_error(
    monkeypatch: pytest.MonkeyPatch, looks: list[str | TocsinError]
) -> None:
    with pytest.raises(type(looks[0])):
        Watched(monkeypatch, *looks).follow()
