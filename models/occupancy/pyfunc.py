"""The model as MLflow's `pyfunc` flavour loads it: windows in, the probability that the room is occupied and attention out."""

from __future__ import annotations

from tocsin.models.occupancy.model import load
from tocsin.models.served import Windows


def _load_pyfunc(path: str) -> Windows:
    """MLflow calls this with the folder that training has written."""
    model = load(path)
    return Windows(model, model.config)
