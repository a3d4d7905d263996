"""What the dashboards show. Names: `METRICS` in pipelines/runtime/telemetry/metrics.py, with Ray's prefix.

Ray labels each series with the supervisor's node and process, so every query takes a sum or a maximum over those.
"""

from __future__ import annotations

from tocsin.deploy.grafana.model import Board, Panel

OF = '{pipeline=~"$pipeline"}'
BY_SHARD = "{{pipeline}}/{{shard}}"
BY_PIPELINE = "{{pipeline}}"


def rate(counter: str, by: str = "pipeline") -> str:
    """Events of a counter per second."""
    return f"sum by ({by}) (rate(ray_tocsin_{counter}{OF}[$__rate_interval]))"


def newest(gauge: str, by: str = "pipeline, shard") -> str:
    """A gauge of each shard."""
    return f"max by ({by}) (ray_tocsin_{gauge}{OF})"


def latency(quantile: float) -> str:
    """A quantile of the age of a pipeline's rows at the end of their step, in seconds."""
    rows = f"sum by (pipeline, le) (rate(ray_tocsin_latency_seconds_bucket{OF}[$__rate_interval]))"
    return f"histogram_quantile({quantile}, {rows})"


def ratio(part: str, whole: str) -> str:
    """How large one counter's rate is beside another's."""
    return f"{rate(part)} / {rate(whole)}"


_SHARDS = f"sum by (pipeline, state) (max by (pipeline, state) (ray_tocsin_shards{OF}))"
_NOT_RUNNING = 'sum(max by (pipeline, state) (ray_tocsin_shards{pipeline=~"$pipeline", state!="running"}))'
_VERSIONS = newest("model_info", "pipeline, shard, version")
_KEYS = f"sum by (pipeline) ({newest('keys')})"

FLEET = Board(
    "Fleet",
    "Whether every pipeline keeps up, and what it costs.",
    [
        (
            "Now",
            [
                Panel(
                    "Shards that do not run",
                    {"": _NOT_RUNNING},
                    kind="stat",
                    width=6,
                    limit=1,
                    note="`tocsin status` shows why.",
                ),
                Panel("Records behind", {"": f"sum({newest('lag_records')})"}, kind="stat", width=6),
                Panel(
                    "Alerts in the last hour",
                    {"": f"sum(increase(ray_tocsin_alerts_total{OF}[1h]))"},
                    kind="stat",
                    width=6,
                ),
                Panel(
                    "Dead letters in the last hour",
                    {"": f"sum(increase(ray_tocsin_dead_letters_total{OF}[1h]))"},
                    kind="stat",
                    width=6,
                    limit=1,
                    note="`tocsin dlq list` shows them with their reasons.",
                ),
            ],
        ),
        (
            "Does it keep up?",
            [
                Panel(
                    "Lag by shard", {BY_SHARD: newest("lag_records")}, note="Records in Kafka that have not been read."
                ),
                Panel(
                    "Watermark lag by shard",
                    {BY_SHARD: newest("watermark_lag_seconds")},
                    "s",
                    note="How far a shard's clock is behind the wall clock. In a backlog it follows the log.",
                    limit=60,
                ),
                Panel(
                    "Age of rows at the end of their step",
                    {f"{BY_PIPELINE} p{round(100 * q)}": latency(q) for q in (0.5, 0.95, 0.99)},
                    "s",
                    note="From Kafka's timestamp. An alert is out at this time.",
                ),
                Panel("Readings", {BY_PIPELINE: rate("rows_total")}, "ops"),
                Panel("Results", {BY_PIPELINE: rate("results_total")}, "ops"),
                Panel(
                    "Share of time spent in steps",
                    {BY_SHARD: rate("step_busy_seconds_total", "pipeline, shard")},
                    "percentunit",
                    note="Near 1, a shard is at its limit. Add workers or shards.",
                    limit=0.9,
                ),
            ],
        ),
        (
            "What goes wrong",
            [
                Panel("Dead letters", {BY_PIPELINE: rate("dead_letters_total")}, "ops"),
                Panel(
                    "Late records",
                    {BY_PIPELINE: rate("late_total")},
                    "ops",
                    note="Dead letters of readings out of order.",
                ),
                Panel(
                    "Skipped to keep up", {BY_PIPELINE: rate("skipped_total")}, "ops", note='By `overload = "latest"`.'
                ),
                Panel("Repeated readings that were dropped", {BY_PIPELINE: rate("duplicates_total")}, "ops"),
                Panel(
                    "Restarts of workers in 15 minutes",
                    {BY_PIPELINE: f"sum by (pipeline) (increase(ray_tocsin_restarts_total{OF}[15m]))"},
                    limit=3,
                ),
                Panel("Shards by state", {"{{pipeline}} {{state}}": _SHARDS}),
                Panel(
                    "Recoveries that gave other alerts",
                    {BY_SHARD: f"sum by (pipeline, shard) (increase(ray_tocsin_digest_mismatches_total{OF}[1h]))"},
                    limit=1,
                ),
                Panel("Damaged partitions", {BY_SHARD: newest("damaged_partitions")}, limit=1),
                Panel("Keys on two partitions", {BY_SHARD: newest("keys_on_two_partitions")}, limit=1),
            ],
        ),
        (
            "The table",
            [
                Panel(
                    "Time since the last commit",
                    {BY_SHARD: newest("commit_age_seconds")},
                    "s",
                    limit=300,
                    note="While read records wait for one.",
                ),
                Panel(
                    "Time that a commit takes",
                    {BY_PIPELINE: ratio("commit_seconds_total", "checkpoints_total")},
                    "s",
                    note="Files, snapshot and the table's commit.",
                ),
                Panel("Commits", {BY_PIPELINE: rate("checkpoints_total")}, "ops"),
                Panel("Records read and not committed", {BY_SHARD: newest("committed_lag_records")}),
                Panel("Rows held for the next commit", {BY_SHARD: newest("uncommitted_rows")}),
                Panel("Keys with state", {BY_SHARD: newest("keys")}),
            ],
        ),
        (
            "Machines",
            [
                Panel("Workers", {BY_PIPELINE: newest("workers", "pipeline")}),
                Panel("Processor", {"{{ip}}": "max by (ip) (ray_node_cpu_utilization)"}, "percent"),
                Panel("Memory used", {"{{ip}}": "max by (ip) (ray_node_mem_used)"}, "bytes"),
            ],
        ),
    ],
)

MODELS = Board(
    "Models",
    "Which model judges, how full its batches are, and what it says.",
    [
        (
            "In use",
            [
                Panel(
                    "Versions",
                    {"{{pipeline}} {{version}}": f"count by (pipeline, version) ({_VERSIONS})"},
                    note="Shards by the version that they use.",
                ),
                Panel(
                    "Rows in a step, of its maximum",
                    {BY_SHARD: newest("batch_occupancy_ratio")},
                    "percentunit",
                    note="A network is most efficient with full steps; alerts are soonest with small ones.",
                ),
                Panel(
                    "Rows a second of step time",
                    {BY_PIPELINE: ratio("rows_total", "step_busy_seconds_total")},
                    "ops",
                    note="What one worker could do with this model.",
                ),
            ],
        ),
        (
            "What it says",
            [
                Panel("Alerts", {BY_PIPELINE: rate("alerts_total")}, "ops"),
                Panel(
                    "Alerts a thousand results",
                    {BY_PIPELINE: f"1000 * {ratio('alerts_total', 'results_total')}"},
                    note="A jump after a new version says that the version judges otherwise.",
                ),
                Panel("Results of muted assets", {BY_PIPELINE: rate("silenced_total")}, "ops"),
            ],
        ),
        (
            "How well it does",
            [
                Panel(
                    "Scores by labels",
                    {
                        "{{pipeline}} {{version}} {{figure}}": "max by (pipeline, version, figure) "
                        '(ray_tocsin_live_score{pipeline=~"$pipeline", figure!~"rows|assets"})'
                    },
                    note="By the labels that have arrived, of each version.",
                ),
                Panel(
                    "Rows with a label",
                    {"{{pipeline}} {{version}}": 'max by (pipeline, version) (ray_tocsin_live_score{figure="rows"})'},
                ),
                Panel(
                    "Drift of the input, of its level",
                    {
                        "{{pipeline}} {{column}} {{group}}": "max by (pipeline, column, group) "
                        '(ray_tocsin_drift_index{pipeline=~"$pipeline"}) / on (pipeline) group_left '
                        "max by (pipeline) (ray_tocsin_drift_level)"
                    },
                    limit=1,
                    note="Population stability index of each sensor against training, as a share of the level of the alert.",
                ),
            ],
        ),
        (
            "GPU, as Ray reports it",
            [
                Panel(
                    "Utilization",
                    {"{{ip}} {{GpuIndex}}": "max by (ip, GpuIndex) (ray_node_gpus_utilization)"},
                    "percent",
                    width=12,
                ),
                Panel(
                    "Memory",
                    {"{{ip}} {{GpuIndex}}": "max by (ip, GpuIndex) (ray_node_gram_used)"},
                    "decmbytes",
                    width=12,
                ),
            ],
        ),
    ],
)

CAMERAS = Board(
    "Cameras",
    "Whether frames arrive, and what they cost.",
    [
        (
            "Do frames arrive?",
            [
                Panel("Cameras", {BY_PIPELINE: _KEYS}),
                Panel("Frames", {BY_PIPELINE: rate("rows_total")}, "ops"),
                Panel("Frames of a camera", {BY_PIPELINE: f"{rate('rows_total')} / {_KEYS}"}, "ops"),
                Panel(
                    "Share of frames that never came",
                    {
                        BY_PIPELINE: f"{rate('missed_total')} / ({rate('missed_total')} + {rate('rows_total')})",
                    },
                    "percentunit",
                    note="By the numbers that the cameras give their frames.",
                    limit=0.05,
                ),
                Panel(
                    "Frames of rigs without a partner, and partners of none",
                    {f"{BY_PIPELINE} {kind}": rate(f"{kind}_total") for kind in ("unpaired", "unused")},
                    "ops",
                ),
                Panel("Late frames", {BY_PIPELINE: rate("late_total")}, "ops"),
                Panel("Frames that could not be decoded", {BY_PIPELINE: rate("dead_letters_total")}, "ops"),
            ],
        ),
        (
            "Are they judged in time?",
            [
                Panel("Age of a frame at the end of its step", {BY_PIPELINE: latency(0.95)}, "s", limit=1),
                Panel("Time that a frame takes", {BY_PIPELINE: ratio("step_busy_seconds_total", "rows_total")}, "s"),
                Panel("Alerts", {BY_PIPELINE: rate("alerts_total")}, "ops"),
            ],
        ),
    ],
)

BOARDS = {board.title.lower(): board for board in (FLEET, MODELS, CAMERAS)}
