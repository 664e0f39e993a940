"""Phenobarbital at the estimates that NONMEM printed, as a fit, and the same model in numpy."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from support.fitted_models import quick_fit

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import EffectEstimates, find_modes
from nlme_torch.model.density.density import Density

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "phenobarbital_residuals.json").read_text())


@cache
def nonmem_fit():
    """A fit whose parameters are NONMEM's; its conditional modes and covariances are of those parameters."""
    at = REFERENCE["estimates"]
    values = {name: at[name] for name in ("cl", "v", "asphyxia", "omega_cl", "omega_v")}
    model = nlme.examples.Phenobarbital().with_values({**values, "sigma": at["sigma_variance"] ** 0.5})
    data = nlme.examples.phenobarbital()
    conditional = Density(model, data.batch(), nlme.Tsit5()).at()
    modes = find_modes(conditional, torch.zeros(2, 1, data.n_subjects, dtype=torch.float64))
    covariances = torch.linalg.inv(modes.precision.movedim(-1, 0)).movedim(0, -1)
    effects = EffectEstimates(
        modes.effects, modes.precision, modes.value, modes.effects, covariances, modes.effects[:, None]
    )
    return replace(quick_fit(), model=model, data=data, effects=effects)


def concentrations(frame, eta, values):
    """Concentrations of one subject after its bolus doses, at its observations, by superposition."""
    weight, low = frame["WT"].iloc[0], frame["APGR"].iloc[0] < 5
    clearance = values["cl"] * weight * np.exp(eta[0])
    volume = values["v"] * weight * (1 + values["asphyxia"] * low) * np.exp(eta[1])
    doses, observed = frame[frame["AMT"] > 0], frame[frame["MDV"] == 0]
    since = observed["TIME"].to_numpy()[:, None] - doses["TIME"].to_numpy()
    given = np.where(since >= 0, doses["AMT"].to_numpy() * np.exp(-clearance / volume * np.maximum(since, 0)), 0)
    return given.sum(1) / volume
