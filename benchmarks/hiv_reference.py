"""The HIV viral dynamics file and the parameter vectors of its reference, for benchmarks and tests."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import nlme_torch as nlme

PHARMACOKINETICS = ("iKa", "iCL", "iVc", "iQ", "iVp", "iDur")


def read(path: Path, subjects: Iterable[int] | None = None) -> nlme.Dataset:
    """Doses and virus observations of some of the subjects, of all if None."""
    frame = pd.read_csv(path)
    if subjects is not None:
        frame = frame[frame["id"].isin(list(subjects))]
    ignored = ["CP", "dv", "Dose"]
    return nlme.Dataset.from_frame(frame, outputs=["Virus"], covariates=list(PHARMACOKINETICS), ignore=ignored)


def classical(vector: Sequence[float]) -> dict[str, Any]:
    """Parameters of ``nlme.examples.ViralDynamics`` from the reference's vector."""
    names = ("lam", "d", "beta", "a", "gamma", "omega")
    return {
        **{name: 10**value for name, value in zip(names, vector, strict=False)},
        "ec50": math.exp(vector[6]),
        "omega_lam": math.exp(vector[7]),
        "omega_ec50": math.exp(vector[8]),
        "sigma": math.exp(vector[9]) + 0.001,
    }


def network(vector: Sequence[float]) -> dict[str, Any]:
    """Parameters of ``nlme.examples.ViralNetwork``; the reference stores weight matrices by columns."""
    weights, place = [], 0
    for inputs, outputs in ((4, 8), (8, 8), (8, 1)):
        matrix = np.array(vector[place : place + inputs * outputs]).reshape(inputs, outputs).T
        place += inputs * outputs
        weights += [matrix.ravel(), np.array(vector[place : place + outputs])]
        place += outputs
    return {
        "growth": np.concatenate(weights),
        "v0": math.exp(vector[place]) + 0.001,
        "spread": math.exp(vector[place + 1]),
        "sigma": math.exp(vector[place + 2]) + 0.001,
    }
