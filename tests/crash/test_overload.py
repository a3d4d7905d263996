"""More than can be judged: with `latest`, what is skipped is on record, and everything else is judged once."""

import time

import orjson

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job


def _skipped(job: Job) -> dict[int, list[range]]:
    """Offsets that were left out, by the journal."""
    found: dict[int, set[range]] = {}
    for record in job.read(f"_tocsin.{job.name}"):
        for item in orjson.loads(record.value)["items"]:
            if len(item) == 2:
                starts, ends = (dict(zip(flat[::2], flat[1::2], strict=True)) for flat in item)
                for partition, start in starts.items():
                    found.setdefault(partition, set()).add(range(start, ends[partition]))
    return {partition: sorted(ranges, key=lambda r: r.start) for partition, ranges in found.items()}


def test_latest_skips_what_is_too_old_and_tells_of_it_across_kills(make_job: MakeJob) -> None:
    job = make_job(slow=4, overload="latest", max_lag="1s", rows=32)
    with job.load(rate=600):  # three times what it can judge
        worker = job.start()
        for point in ("anywhere", "alerts.sent", "checkpoint.files", "alerts.committed", "anywhere"):
            worker.fall(point)
            worker = job.start()
        time.sleep(1)
    job.finish(job.drain(worker, restart=job.start))
    skipped = _skipped(job)
    assert sum(len(r) for ranges in skipped.values() for r in ranges) > 300
    assert job.differences(skipped=skipped) == []
