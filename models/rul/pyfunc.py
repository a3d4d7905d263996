"""The model as MLflow's `pyfunc` flavour loads it: windows in, remaining useful life and attention out."""

from __future__ import annotations

from tocsin.models.rul.model import load
from tocsin.models.served import Windows


def _load_pyfunc(path: str) -> Windows:
    """MLflow calls this with the folder that training has written."""
    model = load(path)
    return Windows(model, model.config)
