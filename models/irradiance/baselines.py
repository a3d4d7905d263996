"""What a forecast has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin.models.irradiance.inputs import column
from tocsin.models.irradiance.samples import Samples

SMART = "smart persistence"


def baselines(samples: Samples, usual: float) -> dict[str, NDArray[np.float64]]:
    """Forecasts without a network, W/m2, `[N]` each; NaN where one knows nothing.

    `smart persistence`: the clearness stays. `persistence`: the irradiance stays. `yesterday`: as a day before. `climatology`: the
    clearness is `usual`.
    """
    ghi, ahead = column(samples.windows, "ghi"), column(samples.windows, "ahead")[:, -1]
    found = {
        SMART: samples.persistence,
        "persistence": ghi[:, -1],
        "yesterday": ghi[:, 0],
        "climatology": usual * ahead,
    }
    return {name: values.double().numpy() for name, values in found.items()}
