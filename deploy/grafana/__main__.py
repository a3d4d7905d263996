"""Write the dashboards into `deploy/grafana/dashboards`: `python -m tocsin.deploy.grafana`."""

from __future__ import annotations

import json
from pathlib import Path

from tocsin.deploy.grafana.boards import BOARDS
from tocsin.deploy.grafana.model import dashboard

FOLDER = Path(__file__).parent / "dashboards"


def text(name: str) -> str:
    """Return a dashboard as JSON."""
    return json.dumps(dashboard(BOARDS[name]), indent=1) + "\n"


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name in BOARDS:
        (FOLDER / f"{name}.json").write_text(text(name))


if __name__ == "__main__":
    main()
