"""All that the pages show and do, opened and closed together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tocsin.pipelines.runtime import Settings
from tocsin.pipelines.ui.data.actions import Actions
from tocsin.pipelines.ui.data.alert_feed import AlertFeed
from tocsin.pipelines.ui.data.assets import Assets
from tocsin.pipelines.ui.data.board import AlertBoard
from tocsin.pipelines.ui.data.fleet import Command, Fleet
from tocsin.pipelines.ui.data.letters import DeadLetters
from tocsin.pipelines.ui.data.models import Models
from tocsin.pipelines.ui.data.queries import Queries


@dataclass(frozen=True)
class Commands:
    """Other commands of `tocsin` that the page runs, with the same settings.

    Args:
        status: by name, the status commands that should run now.
        silence: mutes an asset, from pipeline, key and duration.
    """

    status: Callable[[], Mapping[str, Command]]
    silence: Callable[[str, str, str], Sequence[str]]


@dataclass(frozen=True)
class Sources:
    """What the pages show and do."""

    fleet: Fleet
    board: AlertBoard
    feed: AlertFeed
    assets: Assets
    letters: DeadLetters
    models: Models | None
    queries: Queries
    actions: Actions

    @classmethod
    def of(cls, settings: Settings, commands: Commands, *, allow_changes: bool = False) -> Sources:
        """The sources that the settings name. Nothing is read before `start`.

        Args:
            allow_changes: whether a person may acknowledge, silence and replay.
        """
        kafka, lake, board = settings.kafka.client_options(), settings.lake.open(), AlertBoard()
        letters = DeadLetters(kafka, lake)
        return cls(
            fleet=Fleet(commands.status, settings.pipelines),
            board=board,
            feed=AlertFeed(kafka, lake, board),
            assets=Assets(lake),
            letters=letters,
            models=Models(settings.mlflow.tracking_uri) if settings.mlflow.enabled else None,
            queries=Queries(lake),
            actions=Actions(kafka, board, letters, silence=commands.silence, allowed=allow_changes),
        )

    def start(self) -> None:
        """Start the threads that follow pipelines and alerts."""
        self.fleet.start()
        self.feed.start()

    def close(self) -> None:
        """Stop them, and end the processes."""
        self.feed.close()
        self.fleet.close()
        self.queries.close()
