"""Further problems of ``starts.py``: kinds of models that nothing was tuned on, with data simulated from themselves.

Every model stands at the values its data were simulated from, so that the fit from the problem's own values begins at
the truth.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from start_problems import ANY_OUTCOME, Problem
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.model.individual.individual import Covariates, Individual

SEED = 7


class MichaelisMenten(nlme.Model):
    """Saturable elimination after a bolus; proportional error."""

    states = ("central",)

    def __init__(self) -> None:
        super().__init__()
        self.vmax = nlme.LogNormal(8.0, omega=0.09)  # mg/h
        self.km = nlme.LogNormal(3.0, omega=0.04)  # mg/L
        self.v = nlme.LogNormal(20.0, omega=0.05)  # L
        self.sigma = nlme.Positive(0.1)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Any:
        """Amount in the centre (mg)."""
        concentration = y.central / p.v
        return (-p.vmax * concentration / (p.km + concentration),)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L)."""
        return {"DV": nlme.observation.Proportional(y.central / p.v, p.sigma)}


class TwoCompartmentsOral(nlme.Model):
    """Absorption into two compartments as equations; the peripheral one without variation; combined error."""

    states = ("depot", "central", "peripheral")

    def __init__(self) -> None:
        super().__init__()
        self.ka = nlme.LogNormal(1.0, omega=0.2)  # 1/h
        self.cl = nlme.LogNormal(5.0, omega=0.09)  # L/h
        self.v = nlme.LogNormal(30.0, omega=0.06)  # L
        self.q, self.v2 = nlme.Positive(3.0), nlme.Positive(50.0)  # L/h, L
        self.a, self.b = nlme.Positive(0.05), nlme.Positive(0.12)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Any:
        """Amounts (mg)."""
        out, back = p.q / p.v * y.central, p.q / p.v2 * y.peripheral
        return -p.ka * y.depot, p.ka * y.depot - p.cl / p.v * y.central - out + back, out - back

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L)."""
        return {"DV": nlme.observation.Combined2(y.central / p.v, p.a, p.b)}


class EffectCompartment(nlme.Model):
    """A delayed sigmoid effect of a drug whose kinetics do not vary; additive error."""

    states = ("depot", "central", "effect")

    def __init__(self) -> None:
        super().__init__()
        self.ka, self.cl, self.v = nlme.Positive(1.2), nlme.Positive(4.0), nlme.Positive(25.0)
        self.ke0 = nlme.LogNormal(0.4, omega=0.2)  # 1/h
        self.e0 = nlme.Normal(60.0, omega=25.0)
        self.emax = nlme.LogNormal(40.0, omega=0.06)
        self.ec50 = nlme.LogNormal(1.5, omega=0.2)  # mg/L
        self.hill, self.sigma = nlme.Positive(2.0), nlme.Positive(3.0)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Any:
        """Amounts (mg), and the concentration at the site of the effect (mg/L)."""
        concentration = y.central / p.v
        return -p.ka * y.depot, p.ka * y.depot - p.cl * concentration, p.ke0 * (concentration - y.effect)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """The effect lowers the baseline."""
        share = y.effect**p.hill / (p.ec50**p.hill + y.effect**p.hill)
        return {"DV": nlme.observation.Additive(p.e0 - p.emax * share, p.sigma)}


class OverdispersedCounts(nlme.Model):
    """Counts with more than Poisson variation, falling or rising exponentially."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nlme.LogNormal(8.0, omega=0.4)
        self.slope = nlme.Normal(-0.04, omega=0.001)  # 1/week
        self.dispersion = nlme.Positive(0.3)

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Expected count."""
        return p.base * torch.exp(p.slope * t)

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Negative binomial counts."""
        return {"DV": nlme.observation.NegativeBinomial(y, p.dispersion)}


class Turnover(nlme.Model):
    """Production inhibited by a drug of known kinetics; a share between 0 and 1 that varies; proportional error."""

    states = ("response",)

    def __init__(self) -> None:
        super().__init__()
        self.base = nlme.LogNormal(20.0, omega=0.04)
        self.kout = nlme.LogNormal(0.3, omega=0.1)  # 1/h
        self.imax = nlme.LogitNormal(0.8, omega=0.5)
        self.ke, self.ic50 = nlme.Positive(0.15), nlme.Positive(2.0)  # 1/h, mg/L
        self.sigma = nlme.Positive(0.1)

    def initial(self, p: Individual) -> Any:
        """In balance."""
        return (p.base,)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Any:
        """The response."""
        concentration = 10 * torch.exp(-p.ke * t)
        inhibition = p.imax * concentration / (p.ic50 + concentration)
        return (p.base * p.kout * (1 - inhibition) - p.kout * y.response,)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Responses."""
        return {"DV": nlme.observation.Proportional(y.response, p.sigma)}


class KineticsAndResponse(nlme.Model):
    """Two outcomes: concentrations, some below the limit of quantification, and a response that they stimulate."""

    states = ("depot", "central", "response")

    def __init__(self) -> None:
        super().__init__()
        self.ka = nlme.Positive(1.1)  # 1/h
        self.cl = nlme.LogNormal(3.0, omega=0.1)  # L/h
        self.v = nlme.LogNormal(20.0, omega=0.06)  # L
        self.base = nlme.LogNormal(12.0, omega=0.05)
        self.ec50 = nlme.LogNormal(1.2, omega=0.2)  # mg/L
        self.kout, self.emax = nlme.Positive(0.25), nlme.Positive(3.0)
        self.sigma_pk, self.sigma_pd = nlme.Positive(0.15), nlme.Positive(0.9)

    def initial(self, p: Individual) -> Any:
        """The response in balance."""
        return 0.0, 0.0, p.base

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Any:
        """Amounts (mg) and the response."""
        c = y.central / p.v
        stimulation = 1 + p.emax * c / (p.ec50 + c)
        return (
            -p.ka * y.depot,
            p.ka * y.depot - p.cl * c,
            p.kout * (p.base * stimulation - y.response),
        )

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations with a standard deviation of their own size, responses with a constant one."""
        return {
            "pk": nlme.observation.Combined2(y.central / p.v, 0.02, p.sigma_pk),
            "pd": nlme.observation.Additive(y.response, p.sigma_pd),
        }


class OccasionsAndCovariates(nlme.Model):
    """Clearance that varies between subjects and between two occasions, by weight and sex; doses by mouth."""

    states = ("depot", "central")

    def __init__(self) -> None:
        super().__init__()
        effects = nlme.Power("WT", ref=70, exponent=0.75), nlme.Shift("SEX", coefficient=0.2)
        self.ka = nlme.Positive(1.3)  # 1/h
        self.cl = nlme.LogNormal(4.0, *effects, omega=0.08, occasions=nlme.Occasions(2, omega=0.03))  # L/h
        self.v = nlme.LogNormal(35.0, nlme.Power("WT", ref=70, exponent=1.0), omega=0.04)  # L
        self.sigma = nlme.Positive(0.12)

    def compartments(self, p: Individual) -> Any:
        """Absorption into one compartment."""
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=p.v, absorption=p.ka)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L)."""
        return {"DV": nlme.observation.Proportional(y.central / p.v, p.sigma)}


class Weibull(nlme.Model):
    """Repeated events whose hazard is a power of time, higher or lower in every subject."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nlme.LogNormal(4.0, omega=0.3)  # weeks
        self.shape = nlme.Positive(1.4)

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """The cumulative hazard: a hazard that is infinite at the start, by a shape below 1, is no equation's."""
        return (t / p.scale) ** p.shape

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Events."""
        return {"DV": nlme.observation.TimeToEvent(p.shape * y / t, y)}


class Scores(nlme.Model):
    """An ordered score of four grades that a treatment lowers with time, by proportional odds."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nlme.Normal(1.0, omega=2.0)
        self.fall = nlme.LogNormal(3.0, omega=0.2)
        self.t50 = nlme.Positive(4.0)  # weeks
        self.second, self.third = nlme.Positive(1.5), nlme.Positive(1.2)

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Location on the scale of log odds."""
        return p.level - p.fall * t / (p.t50 + t)

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Scores 0 to 3."""
        first = 0.0 * p.second
        cutpoints = [first, first + p.second, first + p.second + p.third]
        return {"DV": nlme.observation.OrderedCategorical(y, cutpoints)}


class LogisticGrowth(nlme.Model):
    """Logistic growth as an equation, slowed in a treated arm; proportional error."""

    states = ("size",)

    def __init__(self) -> None:
        super().__init__()
        self.start = nlme.LogNormal(40.0, omega=0.1)  # mm3
        self.rate = nlme.LogNormal(0.25, nlme.Shift("ARM", coefficient=-0.5), omega=0.05)  # 1/day
        self.capacity = nlme.LogNormal(1500.0, omega=0.1)  # mm3
        self.sigma = nlme.Positive(0.15)

    def initial(self, p: Individual) -> Any:
        """At the first day."""
        return (p.start,)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Any:
        """The size (mm3)."""
        return (p.rate * y.size * (1 - y.size / p.capacity),)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Sizes."""
        return {"DV": nlme.observation.Proportional(y.size, p.sigma)}


def table(subjects: int, times: Sequence[float], dose: float = 0.0, **columns: Callable[[int], float]) -> pd.DataFrame:
    """Records of equal times; doses, where there are any, of three sizes at time 0."""
    rows: list[dict[str, float]] = []
    for subject in range(subjects):
        own = {"ID": subject + 1, **{name: column(subject) for name, column in columns.items()}}
        if dose:
            rows.append({**own, "TIME": 0.0, "AMT": dose * (1 + subject % 3), "EVID": 1, "CMT": 1, "DV": 0.0})
        extra = {"AMT": 0.0, "EVID": 0, "CMT": 1} if dose else {}
        rows += [{**own, "TIME": float(time), **extra, "DV": 1.0} for time in times]
    return pd.DataFrame(rows)


def _simulated(model: nlme.Model, frame: pd.DataFrame, **columns: Any) -> Problem:
    return Problem(model, nlme.simulate(model, nlme.Dataset.from_frame(frame, **columns), seed=SEED))


def _kinetics_and_response() -> Problem:
    model, plain = KineticsAndResponse(), table(30, (0.5, 1, 2, 4, 8, 12, 18, 24, 36), 50.0)
    observed = plain[plain["EVID"] == 0]
    both = pd.concat([plain.assign(DVID=1), observed.assign(DVID=2)]).sort_values(["ID", "TIME", "DVID"])
    outputs = {"pk": 1, "pd": 2}
    simulated = nlme.simulate(model, nlme.Dataset.from_frame(both, outputs=outputs, dvid="DVID"), seed=SEED).frame
    data = nlme.Dataset.from_frame(simulated, outputs=["pk", "pd"], lloq={"pk": 0.1})
    return Problem(model, data, ANY_OUTCOME)


def _occasions() -> Problem:
    random = np.random.default_rng(SEED)
    weights = random.uniform(45, 100, 40)
    frames = [
        table(40, (0.5, 1, 2, 4, 8, 12, 20), 60.0, WT=lambda i: float(weights[i]), SEX=lambda i: i % 2).assign(OCC=occ)
        for occ in (1, 2)
    ]
    frames[1]["TIME"] += 168.0
    frame = pd.concat(frames).sort_values(["ID", "TIME"], kind="stable")
    return _simulated(OccasionsAndCovariates(), frame, covariates=["WT", "SEX"], occasion="OCC")


def _events() -> Problem:
    random, end, rows = np.random.default_rng(SEED), 12.0, []
    for subject in range(80):
        scale, passed = 4.0 * np.exp(0.3**0.5 * random.normal()), 0.0
        while True:
            passed += random.exponential()
            time = scale * passed ** (1 / 1.4)
            rows.append((subject + 1, min(time, end), float(time < end)))
            if time >= end:
                break
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "DV"])
    return Problem(Weibull(), nlme.Dataset.from_frame(frame, start=0.0), ANY_OUTCOME)


def _any_outcome(model: nlme.Model, subjects: int, times: Sequence[float]) -> Problem:
    found = _simulated(model, table(subjects, times))
    return Problem(found.model, found.data, ANY_OUTCOME)


SIMULATED: dict[str, Callable[[Path], Problem]] = {
    "michaelis_menten": lambda _: _simulated(MichaelisMenten(), table(24, (0.5, 1, 2, 4, 8, 12, 18, 24), 100.0)),
    "two_compartments_oral": lambda _: _simulated(
        TwoCompartmentsOral(), table(30, (0.25, 0.5, 1, 2, 4, 8, 12, 24, 36), 100.0)
    ),
    "effect_compartment": lambda _: _simulated(
        EffectCompartment(), table(40, (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24), 60.0)
    ),
    "overdispersed_counts": lambda _: _any_outcome(OverdispersedCounts(), 60, range(1, 13)),
    "turnover": lambda _: _simulated(Turnover(), table(30, (1, 2, 4, 8, 12, 18, 24, 36, 48))),
    "kinetics_and_response": lambda _: _kinetics_and_response(),
    "occasions_and_covariates": lambda _: _occasions(),
    "weibull_events": lambda _: _events(),
    "scores": lambda _: _any_outcome(Scores(), 100, (0, 1, 2, 4, 6, 8, 12)),
    "logistic_growth": lambda _: _simulated(
        LogisticGrowth(), table(30, (0, 3, 6, 9, 13, 17, 21, 28), ARM=lambda i: i % 2), covariates=["ARM"]
    ),
}
