"""The table of estimates whose uncertainty is a sample: of importance resampling or of the bootstrap."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def sample_table(estimates: Sequence[float], draws: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return one row per scalar.

    Args:
        estimates: Of the fit, in the order of the columns.
        draws: One column per scalar, natural scale.
        level: Share of the draws between the percentiles.

    Returns:
        Columns estimate, median, se, rse_percent, lower, upper.

    Example:
        >>> import pandas as pd
        >>> sample_table([2.0], pd.DataFrame({"cl": [1.0, 2.0, 3.0]}), 0.5).loc["cl"].tolist()
        [2.0, 2.0, 1.0, 50.0, 1.5, 2.5]
    """
    tail = 0.5 * (1 - level)
    table = pd.DataFrame({"estimate": list(estimates)}, index=draws.columns)
    table["median"] = draws.median()
    table["se"] = draws.std()
    table["rse_percent"] = 100 * table["se"] / table["estimate"].abs().replace(0.0, np.nan)
    table["lower"], table["upper"] = draws.quantile(tail), draws.quantile(1 - tail)
    return table
