"""How long does SAEM take to the maximum, as a whole ``nlme.fit``, and how long does its nearest peer?

    python benchmarks/saem.py --json FILE [--only theophylline,phenobarbital,warfarin,counts] [--data FILE] [--peers]

CPU seconds on one core of the second and later fits of a process (imports and compilation are paid by the first):
theophylline_saem_seconds, the median over ten seeds, theophylline_saem_distance, how far the worst of them is from the
exact maximum 118.1017 (quadrature with 15 nodes at its estimates); likewise phenobarbital (586.276 is NONMEM's FOCEI;
the distance is to the best seed), warfarin with transit absorption in closed form (290.96) and 800 simulated subjects
with four Poisson counts each. ``--peers`` fits theophylline by pynlme's ``saemix`` with its own settings in the same
process and reports the ratio of CPU seconds, theophylline_pynlme_ratio (below 1: we are faster).
theophylline_sweep_microseconds is one E-step of that fit (34 chains, seven evaluations, random numbers), and
theophylline_record_nanoseconds one record of the compiled likelihood: the floor.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import Figures, conditions, record
from start_problems import Counts
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.inference.effects.moves import Moves, PhiMoments
from nlme_torch.inference.effects.sweep import sweep
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.density.density import Density
from nlme_torch.solve import Auto

Problem = tuple[nlme.Model, nlme.Dataset, float | None]


def used(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    begun = time.process_time()
    result = call()
    return time.process_time() - begun, result


def fits(name: str, problem: Problem, seeds: int) -> Figures:
    """Fit from several seeds, after one fit that pays for imports and compilation."""
    model, data, best = problem
    nlme.fit(model, data, nlme.SAEM(), seed=99, progress=False)
    seconds, values, ends = [], [], []
    for seed in range(1, seeds + 1):
        spent, fit = used(lambda seed=seed: nlme.fit(model, data, nlme.SAEM(), seed=seed, progress=False))
        value = nlme.loglik(fit, nlme.Quadrature(nodes=15)).ofv
        seconds.append(spent)
        values.append(value)
        ends.append(fit.status.name)
        print(f"{name} seed {seed}: {spent:.2f} CPU s, exact OFV {value:.4f}, {fit.status.name}", flush=True)
    reference = min(values) if best is None else best
    return {
        f"{name}_saem_seconds": statistics.median(seconds),
        f"{name}_saem_seconds_most": max(seconds),
        f"{name}_saem_distance": max(values) - reference,
        f"{name}_saem_converged": ends.count("CONVERGED") / len(ends),
    }


def floor() -> Figures:
    """The compiled pieces of theophylline's E-step alone."""
    data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
    conditional = Density(model, data.batch(), Auto()).at()
    compiled = compiled_likelihood(conditional)
    assert compiled is not None
    likelihood, generator = compiled.at(conditional), torch.Generator().manual_seed(0)
    with torch.no_grad():
        eta = conditional.sample(34, generator)
        moments = PhiMoments.start(eta + conditional.mean[:, None], conditional.covariance())
        effects: Tensor = eta.flatten(-2)
        spent, _ = used(lambda: [likelihood(effects) for _ in range(500)])
        tunings: Mapping[str, Any] = {}
        begun = time.process_time()
        for _ in range(300):
            moved = sweep(likelihood, conditional, effects, Moves(), moments, None, tunings, generator)
            effects, tunings = moved.effects, moved.tunings
        swept = time.process_time() - begun
    records = 500 * effects[0].numel() * len(data.batch().times)
    return {
        "theophylline_record_nanoseconds": 1e9 * spent / records,
        "theophylline_sweep_microseconds": 1e6 * swept / 300,
    }


def peer(ours: float) -> Figures:
    """Theophylline by pynlme's saemix, median of five fits."""
    from pynlme.r_saemix import saemix, saemixData, saemixModel

    frame = nlme.examples.theophylline().frame
    table = {
        "subject": frame["Subject"].to_numpy(), "dose": (frame["Wt"] * frame["Dose"]).to_numpy(),
        "time": frame["Time"].to_numpy(), "conc": frame["conc"].to_numpy(),
    }  # fmt: skip

    def predict(psi: np.ndarray, subject: np.ndarray, read: np.ndarray) -> np.ndarray:
        dose, t = read[:, 0], read[:, 1]
        ka, v, cl = psi[subject, 0], psi[subject, 1], psi[subject, 2]
        k = cl / v
        return dose * ka / (v * (ka - k)) * (np.exp(-k * t) - np.exp(-ka * t))

    data = saemixData(table, name_group="subject", name_predictors=["dose", "time"], name_response="conc")
    model = saemixModel(predict, psi0={"ka": 1.5, "V": 32.0, "CL": 2.7}, transform_par=[1, 1, 1])
    seconds = [used(lambda seed=seed: saemix(model, data, {"seed": seed, "nb.chains": 5}))[0] for seed in range(6)]
    median = statistics.median(seconds[1:])
    print(f"pynlme's saemix: {median:.2f} CPU s, ours {ours:.2f}", flush=True)
    return {"theophylline_pynlme_seconds": median, "theophylline_pynlme_ratio": ours / median}


def problems(given: argparse.Namespace) -> dict[str, Callable[[], Problem]]:
    """The problems by name, with the exact maximum where it is known."""

    def warfarin() -> Problem:
        data = nlme.Dataset.from_csv(given.data, outputs={"PK": "cp"}, covariates=["wt"])
        return nlme.examples.WarfarinTransit(), data, 290.96

    def counts() -> Problem:
        rows = {"ID": np.repeat(np.arange(800), 4), "TIME": np.tile([0.0, 1.0, 2.0, 3.0], 800), "DV": 0.0}
        return Counts(), nlme.simulate(Counts(), nlme.Dataset.from_frame(pd.DataFrame(rows)), seed=1), None

    return {
        "theophylline": lambda: (nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline(), 118.1017),
        "phenobarbital": lambda: (nlme.examples.Phenobarbital(), nlme.examples.phenobarbital(), None),
        "warfarin": warfarin,
        "counts": counts,
    }


def main() -> None:
    """Run the problems that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="theophylline,phenobarbital,warfarin,counts")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/warfarin.csv"))
    parser.add_argument("--peers", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = problems(given)
    for name in given.only.split(","):
        figures = fits(name, known[name](), 10 if name == "theophylline" else 3)
        if name == "theophylline":
            figures |= floor()
            if given.peers:
                figures |= peer(float(figures["theophylline_saem_seconds"]))
        record(given.json, figures | {f"{name}_saem_run": conditions()})


if __name__ == "__main__":
    main()
