"""Loader for MLflow's `pyfunc` flavour: the model takes windows and returns the probability of occupancy and attention."""

from __future__ import annotations

from tocsin.models.occupancy.model import load
from tocsin.models.served import Windows


def _load_pyfunc(path: str) -> Windows:
    """Load the model. MLflow calls this with the folder that training wrote."""
    model = load(path)
    return Windows(model, model.config)
