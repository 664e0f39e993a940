"""How does the cost of SAEM and FOCEI with a differential equation grow with the number of subjects?

    python benchmarks/scale.py --json FILE [--subjects 100,1000] [--methods saem,focei] [--peak]

Two compartments with absorption as a differential equation, six effects, eight records of every simulated subject, from
initial values 10 to 30 % off: scale_saem_N and scale_focei_N, CPU seconds of the whole ``nlme.fit`` on one core with
kernels compiled before, of which scale_saem_iterations_N went into the iterations; scale_saem_gib_N, the largest
memory; scale_saem_rate_N, microseconds per evaluation of one column of the compiled likelihood, the floor.
"""

import argparse
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from record import Figures, conditions, record
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.density.density import Density
from nlme_torch.solve import Auto

TIMES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0)
METHODS: Mapping[str, Any] = {"saem": nlme.SAEM(), "focei": nlme.FOCEI()}


class TwoCompartments(nlme.Model):
    """Absorption, two compartments, and a concentration that the body has of its own.

    Args:
        off: Factor by which typical values are off.
    """

    states = ("depot", "central", "peripheral")

    def __init__(self, off: float = 1.0) -> None:
        super().__init__()
        self.ka = nlme.LogNormal(1.0 * off, omega=0.1)  # 1/h
        self.cl = nlme.LogNormal(5.0 / off, omega=0.1)  # L/h
        self.v = nlme.LogNormal(50.0 * off, omega=0.1)  # L
        self.q = nlme.LogNormal(8.0, omega=0.1)  # L/h
        self.w = nlme.LogNormal(80.0, omega=0.1)  # L
        self.base = nlme.LogNormal(0.5 * off, omega=0.1)  # mg/L
        self.sigma = nlme.Positive(0.15)  # of the prediction

    def dynamics(self, t: Tensor, y: Any, p: Any) -> Sequence[Any]:
        """Amounts (mg)."""
        there, back = p.q / p.v * y.central, p.q / p.w * y.peripheral
        arrived = p.ka * y.depot
        return -arrived, arrived - p.cl / p.v * y.central - there + back, there - back

    def observe(self, t: Tensor, y: Any, p: Any) -> dict[str, Any]:
        """Concentration (mg/L)."""
        prediction = p.base + y.central / p.v
        return {"conc": dist.Normal(prediction, p.sigma * prediction)}


def simulated(subjects: int) -> nlme.Dataset:
    """Subjects after one dose of 1000 mg."""
    design = nlme.Dataset.from_regimen(nlme.Regimen(1000.0), TIMES, subjects=subjects, outputs="conc")
    return nlme.simulate(TwoCompartments(), design, seed=1)


def floor(data: nlme.Dataset) -> float:
    """Microseconds of one evaluation of the compiled likelihood of one column."""
    conditional = Density(TwoCompartments(), data.batch(), Auto()).at()
    compiled = compiled_likelihood(conditional)
    assert compiled is not None
    likelihood = compiled.at(conditional)
    with torch.no_grad():
        effects = conditional.sample(4, torch.Generator().manual_seed(0)).flatten(-2)
    begun = time.process_time()
    for _ in range(5):
        likelihood(effects)
    return 1e6 * (time.process_time() - begun) / (5 * effects[0].numel())


def measure(method: str, subjects: int) -> Figures:
    """Fit once."""
    data = simulated(subjects)
    nlme.fit(TwoCompartments(1.2), simulated(20), METHODS[method], seed=1, progress=False)
    begun = time.process_time()
    fit = nlme.fit(TwoCompartments(1.2), data, METHODS[method], seed=1, progress=False)
    seconds = time.process_time() - begun
    figures: Figures = {f"scale_{method}_{subjects}": seconds, f"scale_{method}_status_{subjects}": fit.status.name}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if method == "saem":
        figures |= {f"scale_saem_gib_{subjects}": peak, f"scale_saem_rate_{subjects}": floor(data)}
    print(
        f"{method}, {subjects} subjects: {seconds:.1f} s of CPU, {fit.status.name}, at most {peak:.2f} GiB", flush=True
    )
    print(fit.parameters["estimate"].round(3).to_dict(), flush=True)
    return figures


def main() -> None:
    """Run the studies that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--subjects", default="100,1000")
    parser.add_argument("--methods", default="saem,focei")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for method in given.methods.split(","):
        for subjects in map(int, given.subjects.split(",")):
            record(given.json, measure(method, subjects) | {f"scale_{method}_{subjects}_run": conditions()})


if __name__ == "__main__":
    main()
