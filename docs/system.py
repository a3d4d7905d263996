"""The picture of the front page: the data flow between the components."""

from __future__ import annotations

WIDTH, HEIGHT = 770, 424
INK, LINE, PAPER = "#1f2933", "#52606d", "#ffffff"
OUTSIDE, KAFKA, RAY, LAKE, BELL = "#eef2f7", "#fdf0d5", "#e3eefb", "#e2f3e8", "#fbe3e4"


def svg() -> str:
    """Return the whole picture as SVG."""
    parts = [
        _box(8, 116, 112, 60, OUTSIDE, "Sensors", "JSON or Arrow"),
        _box(8, 216, 112, 60, OUTSIDE, "Cameras", "JPEG frames"),
        _box(144, 156, 122, 80, KAFKA, "Kafka topic", "partitions by key,", "Kafka keeps it"),
        _frame(290, 20, 284, 312, "Ray: workers under a supervisor"),
        _box(302, 62, 104, 66, RAY, "Reader", "fetches,", "decodes"),
        _box(426, 62, 136, 66, RAY, "Shard", "same steps,", "same rows, always"),
        _box(302, 160, 82, 58, PAPER, "order", "by time"),
        _box(391, 160, 82, 58, PAPER, "windows", "grid, frames"),
        _box(480, 160, 82, 58, PAPER, "attention", "torch"),
        _box(302, 256, 260, 58, PAPER, "alert rules", "levels, hysteresis, silence, by asset"),
        _box(598, 20, 164, 66, LAKE, "Lake", "Delta table: each row", "once; SQL, Polars"),
        _box(598, 112, 164, 66, BELL, "Alert topic", "CloudEvents, each", "alert once"),
        _box(598, 204, 164, 52, KAFKA, "Journal", "what a restart re-runs"),
        _box(598, 280, 164, 52, KAFKA, "Dead letters", "what is no reading"),
        _box(302, 366, 118, 50, OUTSIDE, "MLflow", "models, runs"),
        _box(444, 366, 118, 50, OUTSIDE, "Prometheus", "metrics"),
        _arrow(120, 146, 144, 180),
        _arrow(120, 246, 144, 212),
        _arrow(266, 180, 302, 112),
        _arrow(406, 95, 426, 95),
        _arrow(384, 189, 391, 189),
        _arrow(473, 189, 480, 189),
        _arrow(521, 218, 521, 256),
        _arrow(562, 80, 598, 58),
        _arrow(562, 272, 598, 160),
        _arrow(562, 284, 598, 234),
        _arrow(562, 296, 598, 306),
        _arrow(361, 366, 361, 332),
        _arrow(503, 332, 503, 366),
        _arrow(494, 128, 343, 160, dashed=True),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" role="img">'
        "<title>Readings go from Kafka through Ray to a lake and an alert topic</title>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
    )
    return head + "".join(parts) + "</svg>\n"


def _box(x: int, y: int, width: int, height: int, fill: str, title: str, *lines: str) -> str:
    """Return a box with a centred title and smaller lines below it."""
    middle, top = x + width / 2, y + height / 2 - 7 * len(lines) + 5
    texts = [f'<text x="{middle:g}" y="{top:g}" font-size="14" font-weight="600">{title}</text>']
    texts += [
        f'<text x="{middle:g}" y="{top + 15 * (n + 1):g}" font-size="12">{line}</text>' for n, line in enumerate(lines)
    ]
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" stroke="{LINE}"/>'
        f'<g text-anchor="middle" fill="{INK}">{"".join(texts)}</g>'
    )


def _frame(x: int, y: int, width: int, height: int, title: str) -> str:
    """Return a dashed frame around boxes, with a title at its top."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="#f7f9fc" stroke="{LINE}" stroke-dasharray="5 4"/>'
        f'<text x="{x + 14}" y="{y + 24}" font-size="13" fill="{LINE}">{title}</text>'
    )


def _arrow(x1: int, y1: int, x2: int, y2: int, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="3 3"' if dashed else ' marker-end="url(#tip)"'
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{LINE}" stroke-width="1.5" fill="none"{dash}/>'
