"""Models of the registry: their versions, aliases and scores. Read from MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tocsin.models.tracking_store import connect, missing
from tocsin.pipelines.runtime import Unavailable
from tocsin.pipelines.runtime.telemetry.logs import one_line

VERSIONS = 200
"""Most versions listed of all models."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version.

    Args:
        aliases: such as `champion`.
        scores: figures of its training run that end an evaluation: `validation_...` and `test_...`.
        run: id of the training run; "" if unknown.
    """

    name: str
    version: int
    created: datetime
    aliases: tuple[str, ...]
    description: str
    run: str
    scores: Mapping[str, float] = field(default_factory=dict)


class Models:
    """Reads the registry of one MLflow.

    Args:
        tracking_uri: its address.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri

    def versions(self) -> list[ModelVersion]:
        """Registered versions: by model, the newest first.

        Raises:
            Unavailable: MLflow does not answer.
        """
        if missing(self._uri):
            return []  # to connect would create the database
        try:
            client = connect(self._uri)
            aliases: dict[tuple[str, str], list[str]] = {}
            for model in client.search_registered_models(max_results=100):
                for alias, version in model.aliases.items():
                    aliases.setdefault((model.name, str(version)), []).append(alias)
            found = []
            for v in client.search_model_versions(max_results=VERSIONS):
                scores = {}
                if v.run_id:
                    metrics = client.get_run(v.run_id).data.metrics
                    scores = {n: x for n, x in metrics.items() if n.startswith(("validation_", "test_"))}
                found.append(
                    ModelVersion(
                        name=v.name,
                        version=int(v.version),
                        created=datetime.fromtimestamp(v.creation_timestamp / 1000, UTC),
                        aliases=tuple(sorted(aliases.get((v.name, str(v.version)), ()))),
                        description=v.description or "",
                        run=v.run_id or "",
                        scores=scores,
                    )
                )
        except Exception as reason:  # any failure of MLflow or its store
            raise Unavailable(f"MLflow: expected its models, got {one_line(reason)}; is it running?") from reason
        return sorted(found, key=lambda each: (each.name, -each.version))
