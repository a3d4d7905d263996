"""A client of an MLflow server or database, and the aliases that deployments know.

A new local database is complete before any process can open it.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
"""The alias of the version that deployments follow."""
CHALLENGER = "challenger"
"""The alias of the version that deployments try in shadow."""
SQLITE = "sqlite:///"
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # scripts read the command's stdout
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def database(uri: str) -> Path | None:
    """Return the file of a local SQLite database; None for any other store."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def missing(uri: str) -> Path | None:
    """The file of a local database that does not exist yet; None for any other store. To connect creates it, in seconds."""
    return file if (file := database(uri)) and not file.exists() else None


def connect(uri: str, log_level: int = logging.WARNING) -> MlflowClient:
    """Return a client that prints nothing to stdout. Creates a local database that does not exist yet.

    MLflow creates a database in dozens of migrations. A second process that opens the file meanwhile starts the same
    migrations, and both fail; a process that is killed meanwhile leaves a file that no later one can open. So a new
    database is created under a temporary name and linked to its own when it is complete.

    Args:
        log_level: of the loggers of MLflow and of its migrations.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(log_level)
    if file := missing(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as temporary:
            new = Path(temporary, file.name)
            MlflowClient(f"{SQLITE}{new}")  # creates all tables
            # Fails if another process was faster, or without hard links; MLflow then creates the database in place.
            with suppress(OSError):
                file.hardlink_to(new)
    return MlflowClient(uri, registry_uri=uri)
