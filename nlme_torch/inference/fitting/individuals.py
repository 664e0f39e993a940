"""What is known of single subjects at the estimates: effects with their errors, parameters, predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.inference.fitting.tables import effect_table
from nlme_torch.model.declare.arguments import check_data
from nlme_torch.model.density.density import Density
from nlme_torch.model.individual.individual import is_changing

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


@dataclass(frozen=True)
class Individuals:
    """Subjects at the estimates of a fit: what their own observations say of them; it prints as tables.

    Attributes:
        density: The model at the estimates, joined to the subjects' data and a solver.
        data: Their data.
        modes: Conditional modes of the random effects, ``(effect, subject)``; NaN for a subject without one.
        deviations: Standard deviations about them, from the curvature of the log joint density there,
            ``(effect, subject)``; of a subject without observations those of Omega.
    """

    density: Density
    data: "Dataset"
    modes: Float[Tensor, "effect subject"]
    deviations: Float[Tensor, "effect subject"]

    @property
    def eta(self) -> pd.DataFrame:
        """Conditional modes of the random effects, one row per subject."""
        return effect_table(self.density.model, self.data.subjects, self.modes)

    @property
    def eta_sd(self) -> pd.DataFrame:
        """Standard deviations about the modes, one row per subject."""
        return effect_table(self.density.model, self.data.subjects, self.deviations)

    @property
    def parameters(self) -> pd.DataFrame:
        """Individual parameters at the modes on the natural scale, one row per subject (and occasion)."""
        return individual_table(self.density, self.data.subjects, self.modes)

    @property
    def predictions(self) -> pd.DataFrame:
        """PRED, IPRED, RES, IRES and IWRES, as :attr:`nlme_torch.Fit.predictions`; new times have rows too."""
        return prediction_table(self.density, self.data, self.modes)

    def predict(self, data: "Dataset") -> pd.DataFrame:
        """Predict the same subjects under other doses or at other times; their effects are kept.

        Args:
            data: The same subjects, such as ``data.with_regimen(regimen, times)``; what is observed in it is not used.

        Returns:
            PRED and IPRED (and what was observed) at every observation and every time to predict at.

        Raises:
            FitError: A subject is not one of these, or the data declare other occasions.
        """
        check_data("predict", data)
        unknown = [label for label in data.subjects if label not in self.data.subjects]
        if unknown:
            raise FitError(f"subject {unknown[0]!r} is none of these; individualise the data in which it was observed.")
        places = [self.data.subjects.index(label) for label in data.subjects]
        density = Density(self.density.model, data.batch(device=self.modes.device), self.density.solver)
        return prediction_table(density, data, self.modes[:, places])

    def __str__(self) -> str:
        deviations = self.eta_sd.add_suffix("_sd")
        effects = pd.concat([self.eta, deviations], axis=1)
        tables = {"effects": effects, "parameters": self.parameters, "predictions": self.predictions}
        return "\n\n".join(f"{name}\n{table.to_string(float_format='{:.4g}'.format)}" for name, table in tables.items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        effects = pd.concat([self.eta, self.eta_sd.add_suffix("_sd")], axis=1)
        tables = {"effects": effects, "parameters": self.parameters, "predictions": self.predictions}
        shown = (f"<b>{name}</b>{table.to_html(float_format='{:.4g}'.format)}" for name, table in tables.items())
        return "".join(shown)


def individual_table(density: Density, subjects: Sequence[Any], modes: Tensor) -> pd.DataFrame:
    """Return individual parameters on the natural scale.

    Args:
        density: The model, joined to the data.
        subjects: Their ids.
        modes: Conditional modes, ``(effect, subject)``.

    Returns:
        One row per subject, or, where a parameter varies between occasions, per subject and occasion (from 1, in the
        order in which they appear).
    """
    model, occasion = density.model, density.batch.occasion
    with torch.no_grad():
        individual = density.at().individual(modes[:, None, None])
    owners = [owner for block in model.blocks if block.kind == "individual" for owner in block.owners]
    values = {owner: getattr(individual, owner) for owner in owners}
    if occasion is None or not any(block.kind == "occasion" for block in model.blocks):
        columns = {k: (v[0] if is_changing(v) else v)[0, 0].numpy(force=True) for k, v in values.items()}
        return pd.DataFrame(columns, index=pd.Index(subjects, name="id"))
    numbers, recorded = occasion.numpy(force=True), density.batch.record_mask.numpy(force=True)
    places = [
        (int(np.flatnonzero(recorded[:, k] & (numbers[:, k] == number))[0]), k, int(number))
        for k in range(len(subjects))
        for number in np.unique(numbers[recorded[:, k], k])
    ]
    record, subject, number = (np.array(entry, dtype=int) for entry in zip(*places, strict=True))
    shape = (len(numbers), 1, 1, len(subjects))
    columns = {k: v.expand(shape)[:, 0, 0].numpy(force=True)[record, subject] for k, v in values.items()}
    index = pd.MultiIndex.from_arrays([[subjects[k] for k in subject], number + 1], names=["id", "occasion"])
    return pd.DataFrame(columns, index=index)
