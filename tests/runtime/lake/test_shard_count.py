"""The number of shards that a pipeline's table records."""

from pathlib import Path

from deltalake import DeltaTable

from tocsin.pipelines.runtime.admin.reshard import reshard
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.delta import commit
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable, shard_count

PLAN = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "readings"})


def _deployment(folder: Path) -> Deployment:
    return Deployment(PLAN, Lake(str(folder)), {}, partitions=4, shards=3)


def test_a_pipeline_that_has_not_run_has_nothing_to_move(tmp_path: Path) -> None:
    assert shard_count(Lake(str(tmp_path)), "job") == 0
    reshard(_deployment(tmp_path))
    ResultsTable(Lake(str(tmp_path)), PLAN.build(Lake(str(tmp_path))), 1, 3).own({1: 0})
    assert shard_count(Lake(str(tmp_path)), "job") == 3
    reshard(_deployment(tmp_path))


def test_a_table_from_before_the_number_was_stored_counts_its_owners(tmp_path: Path) -> None:
    pipeline, uri = PLAN.build(Lake(str(tmp_path))), Lake(str(tmp_path)).uri("job")
    table = DeltaTable.create(uri, pipeline.table, partition_by=["event_date"])
    commit(table, [], {"job/0#epoch": 3, "job/2#epoch": 1, "other/7#epoch": 1})
    assert shard_count(Lake(str(tmp_path)), "job") == 3
