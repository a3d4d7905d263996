"""Where a new shadow begins: with the state of the pipeline whose shadow it is, at that pipeline's last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import SnapshotLost
from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.lake.delta import delta_table
from tocsin.pipelines.runtime.lake.snapshots import Snapshots

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.machine import Machine
    from tocsin.pipelines.runtime.engine.shard_config import ShardConfig

log = logging.getLogger(__name__)
ATTEMPTS = 5
"""How often to look for a snapshot that its owner may be replacing."""


@dataclass(frozen=True)
class Seed:
    """Where a new shadow begins.

    Args:
        positions: R of the other pipeline's shard.
        facts: of its snapshot.
        deltas: its state at these positions.
    """

    positions: Mapping[int, int]
    facts: Mapping[str, Any]
    deltas: Sequence[StateDelta]

    def restore(self, machine: Machine) -> None:
        """Give the machine the other pipeline's state if it has the same shape. A machine of another shape starts blank."""
        version = machine.pipeline.state_version
        if (self.facts["signature"], self.facts.get("state_version", version)) != (machine.signature, version):
            log.warning("%s: its state has another shape than its pipeline's; it starts blank", machine.pipeline.name)
            return
        machine.restore([_without_rules(delta) for delta in self.deltas])


def find_seed(config: ShardConfig, declared: Pipeline, topic_id: str) -> Seed | None:
    """Find where a new shadow begins: at the last checkpoint of the pipeline that it is a shadow of; None: it has none.

    Args:
        topic_id: of the input topic as it is now.
    """
    for _ in range(ATTEMPTS):
        table = delta_table(config.lake, declared.folder)
        if table is None or table.transaction_version(names.shards_id(declared.shadow_of)) != config.shards:
            return None
        name = table.transaction_version(names.checkpoint_id(declared.shadow_of, config.shard))
        positions = {p: _position(table, declared, p) for p in config.partitions}
        if not name or None in positions.values():
            return None
        try:
            snapshot = Snapshots(config.lake, declared.shadow_of, config.shard).read(name)
        except SnapshotLost:  # two newer ones are committed meanwhile
            continue
        if snapshot.facts.get("topic_id") != topic_id:
            return None
        return Seed({p: o for p, o in positions.items() if o is not None}, snapshot.facts, snapshot.deltas)
    return None


def _position(table: DeltaTable, declared: Pipeline, partition: int) -> int | None:
    return table.transaction_version(names.position_id(declared.shadow_of, declared.topic, partition))


def _without_rules(delta: StateDelta) -> StateDelta:
    return replace(delta, cells={name: cell for name, cell in delta.cells.items() if not name.startswith("rules/")})
