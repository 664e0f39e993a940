"""The models of the examples and every compartment model, with a few subjects each, for draws of extreme parameters."""

import numpy as np
import pandas as pd
import pyro.distributions as dist

import nlme_torch as nlme
from nlme_torch import compartments, examples

KINDS = ("bolus", "infusion", "modelled duration", "steady bolus", "steady infusion", "endless infusion")


class Compartments(nlme.Model):
    """One of the compartment models, with a lag and a bioavailability; a subclass says which."""

    states: tuple[str, ...] = ("central",)
    parameters: tuple[str, ...] = ("cl", "v")

    def __init__(self):
        super().__init__()
        for index, name in enumerate(self.parameters):
            setattr(self, name, nlme.LogNormal(0.7 + 0.3 * index, omega=0.1))
        self.lag, self.f = nlme.LogNormal(0.3, omega=0.1), nlme.LogNormal(0.8, omega=0.1)
        self.length, self.sigma = nlme.LogNormal(1.3, omega=0.1), nlme.Positive(0.3)

    def dosing(self, p):
        return {self.states[0]: nlme.Dosing(lag=p.lag, bioavailability=p.f, duration=p.length)}

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


ORAL = {"ka": "absorption"}
ONE = {"cl": "clearance", "v": "volume"}
TWO = ONE | {"q": "intercompartmental_clearance", "w": "peripheral_volume"}
THREE = ONE | {
    "q": "intercompartmental_clearance1", "w": "peripheral_volume1", "r": "intercompartmental_clearance2",
    "u": "peripheral_volume2",
}  # fmt: skip
CHAIN = {"ka": "rate", "cl": "clearance", "v": "volume"}
SYSTEMS = {
    "one": (compartments.OneCompartment, ONE, {}),
    "one, oral": (compartments.OneCompartment, ONE | ORAL, {}),
    "two": (compartments.TwoCompartment, TWO, {}),
    "two, oral": (compartments.TwoCompartment, TWO | ORAL, {}),
    "three": (compartments.ThreeCompartment, THREE, {}),
    "three, oral": (compartments.ThreeCompartment, THREE | ORAL, {}),
    "transit": (compartments.TransitAbsorption, CHAIN, {"n_transit": 2}),
}


def compartment_model(name, equation=False):
    """A model of one of the compartment systems, in closed form or as the differential equation of its matrix."""
    system, parts, fixed = SYSTEMS[name]

    def linear(self, p):
        return system(**{field: getattr(p, own) for own, field in parts.items()}, **fixed)

    def dynamics(self, t, y, p):
        matrix = linear(self, p).matrix()
        return tuple(sum(entry * state for entry, state in zip(row, y, strict=True)) for row in matrix)

    states = system(**dict.fromkeys(parts.values(), 1.0), **fixed).states
    members = {"states": states, "parameters": tuple(parts), ("dynamics" if equation else "compartments"): (
        dynamics if equation else linear
    )}  # fmt: skip
    return type("Compartment", (Compartments,), members)()


def dosed_data(kind, unit=1.0, subjects=3):
    """Subjects with two doses of one kind and three observations each; amounts in multiples of a unit."""
    columns = {
        "bolus": {}, "infusion": {"DUR": 2.0}, "modelled duration": {"RATE": -2.0},
        "steady bolus": {"SS": [1, 0], "II": [4.0, 0.0]}, "steady infusion": {"SS": [1, 2], "II": 4.0, "DUR": 2.0},
        "endless infusion": {"SS": [1, 0], "AMT": [0.0, 5.0 * unit], "RATE": [2.0 * unit, 0.0]},
    }[kind]  # fmt: skip
    doses = pd.DataFrame({"TIME": [0.0, 5.0], "EVID": 1, "AMT": 5.0 * unit, "DV": np.nan}).assign(**columns)
    seen = pd.DataFrame({"TIME": [0.5, 3.0, 8.0], "EVID": 0, "AMT": 0.0, "DV": [1.0, 0.7, 0.4]})
    seen["DV"] *= unit
    rows = pd.concat([doses, seen]).sort_values("TIME", kind="stable").fillna({"SS": 0, "II": 0, "RATE": 0, "DUR": 0})
    for name in ("SS", "II", "RATE", "DUR"):
        rows[name] = rows[name].fillna(0) if name in rows else 0
    return nlme.Dataset.from_frame(pd.concat([rows.assign(ID=subject) for subject in range(subjects)]))


def warfarin():
    """Two invented subjects with the columns of the warfarin table."""
    rows = [
        {"ID": subject, "TIME": time, "EVID": int(time == 0.0), "AMT": 100.0 * (time == 0.0), "wt": 66.7 + subject}
        for subject in (1, 2)
        for time in (0.0, 1.0, 12.0, 48.0)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(cp=np.where(frame["EVID"] == 0, 6.0, np.nan), pca=np.where(frame["EVID"] == 0, 40.0, np.nan))


EXAMPLES = {
    examples.theophylline: (
        examples.TheophyllineClassical, examples.TheophyllineClosedForm, examples.TheophyllineFourNetworks,
        examples.TheophyllineFullOmega, examples.TheophyllineHybrid,
    ),
    examples.phenobarbital: (examples.Phenobarbital, examples.PhenobarbitalEquation),
    lambda: nlme.Dataset.from_frame(warfarin(), outputs={"PK": "cp"}, covariates=["wt"]): (
        examples.WarfarinTransit, examples.WarfarinTransitEquation,
    ),
    lambda: nlme.Dataset.from_frame(warfarin(), outputs={"PK": "cp", "PD": "pca"}, covariates=["wt"]): (
        examples.WarfarinTurnover,
    ),
    lambda: examples.viral_data(3, seed=1): (examples.ViralGrowthNetwork, examples.ViralInfectionNetwork),
    lambda: examples.indirect_response_data(3, seed=1): (
        examples.IndirectResponse, examples.NeuralODE, examples.DeepNLME, examples.IndividualWeights,
        examples.IndividualNetwork, examples.IndividualResponse, examples.TargetedNetwork, examples.UniversalODE,
    ),
    lambda: examples.low_dimensional_data(examples.OralTruth(), 3, seed=1): (examples.OralNetwork,),
    lambda: examples.low_dimensional_data(examples.IntravenousTruth(), 3, seed=1): (examples.IntravenousNetwork,),
    lambda: examples.low_dimensional_data(examples.ResponseTruth(), 3, seed=1): (examples.ResponseNetwork,),
    lambda: examples.myelosuppression_data(3, seed=1): (examples.Myelosuppression, examples.FeedbackNetwork),
    lambda: examples.nonlinear_clearance_data(3, seed=1): (
        examples.NonlinearClearance, examples.SaturableWithoutCovariates, examples.ClearanceNetwork,
        examples.ClearanceCovariateNetwork,
    ),
    lambda: examples.covariate_data(3, seed=1): (
        examples.CovariateTruth, examples.CovariateNetwork, examples.WithoutCovariates,
    ),
    lambda: examples.bimodal_data(3): (examples.SubjectMean, examples.SubjectMeanNetwork),
}  # fmt: skip
