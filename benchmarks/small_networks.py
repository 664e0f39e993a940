"""Do small networks in published settings predict new subjects as well as the equations that they stand for?

    python benchmarks/small_networks.py --json FILE [--only clearance,myelosuppression,intravenous,oral,response]

clearance: saturable elimination with covariates in every parameter, 50 training and 50 test subjects.
myelosuppression: a chain of neutrophils whose feedback is a network, 30 and 50.
intravenous, oral, response: networks of five units with random effects on their weights, 20 and 50, six samples each.

In every study one model has the truth's equations (STUDY_truth), the others have networks (STUDY_network, and in
clearance STUDY_covariates with a network for the covariates; clearance_without has the true elimination and no
covariates). Data are simulated with seed 1 (training) and 2 (test). For every model:

STUDY_MODEL_train_m2ll, STUDY_MODEL_test_m2ll: -2 log-likelihood of training and of test subjects, by importance
sampling, annealed where effects are on weights; STUDY_MODEL_test_m2ll_se its Monte-Carlo error.
STUDY_MODEL_above_truth: test -2LL per subject above that of the truth's equations; STUDY_MODEL_above_truth_se: its
standard error over subjects.
STUDY_MODEL_sigma: estimate; STUDY_MODEL_cpu_seconds: of the fit.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from record import Figures, conditions, record

import nlme_torch as nlme

Method = nlme.Staged | nlme.FOCEI | nlme.SAEM

CLASSICAL = nlme.SAEM(schedule=nlme.StepSchedule(exploration=150, smoothing=100), chains=8)
NETWORK = nlme.Staged(nlme.Pooled(steps=300), CLASSICAL)


@dataclass(frozen=True)
class Study:
    """What is fitted to what.

    Attributes:
        data: Number of subjects and seed to a data set.
        train: Number of training subjects.
        models: The truth's equations first.
    """

    data: Callable[[int, int], nlme.Dataset]
    train: int
    models: dict[str, tuple[Callable[[], nlme.Model], Method]]


def low_dimensional(truth: type[nlme.Model], network: type[nlme.Model]) -> Study:
    """Twenty subjects, effects on weights."""
    simulated = partial(nlme.examples.low_dimensional_data, truth())
    models = {"truth": (truth, CLASSICAL), "network": (network, NETWORK)}
    return Study(simulated, 20, models)


STUDIES = {
    "clearance": Study(
        nlme.examples.nonlinear_clearance_data,
        50,
        {
            "truth": (nlme.examples.NonlinearClearance, CLASSICAL),
            "without": (nlme.examples.SaturableWithoutCovariates, CLASSICAL),
            "network": (nlme.examples.ClearanceNetwork, NETWORK),
            "covariates": (nlme.examples.ClearanceCovariateNetwork, NETWORK),
        },
    ),
    "myelosuppression": Study(
        nlme.examples.myelosuppression_data,
        30,
        {
            "truth": (nlme.examples.Myelosuppression, nlme.FOCEI()),
            "network": (nlme.examples.FeedbackNetwork, nlme.Staged(nlme.Pooled(steps=100), nlme.FOCEI(mode_starts=1))),
        },
    ),
    "intravenous": low_dimensional(nlme.examples.IntravenousTruth, nlme.examples.IntravenousNetwork),
    "oral": low_dimensional(nlme.examples.OralTruth, nlme.examples.OralNetwork),
    "response": low_dimensional(nlme.examples.ResponseTruth, nlme.examples.ResponseNetwork),
}
# a bent conditional distribution of weights defeats plain importance sampling: Pareto k of one
LIKELIHOODS = {(name, "network"): nlme.AnnealedImportanceSampling() for name in ("intravenous", "oral", "response")}


def study(name: str, write: Callable[[Figures], None]) -> None:
    """Fit all models of a study."""
    chosen = STUDIES[name]
    train, test = chosen.data(chosen.train, 1), chosen.data(50, 2)
    base: np.ndarray | None = None
    for label, (make, method) in chosen.models.items():
        likelihood = LIKELIHOODS.get((name, label), nlme.ImportanceSampling(samples=2000, modes=3))
        begun = time.process_time()
        fit = nlme.fit(make(), train, method, seed=1, likelihood=likelihood, progress=False)
        seconds = time.process_time() - begun
        print(f"\n=== {name}, {label}\n{fit}", flush=True)
        held = nlme.held_out(fit, test, likelihood)
        values = -2 * held.subjects["log_likelihood"].to_numpy()
        base = values if base is None else base
        found: Figures = {
            "train_m2ll": fit.minus2ll,
            "test_m2ll": held.minus2ll,
            "test_m2ll_se": 2 * held.standard_error,
            "above_truth": float((values - base).mean()),
            "above_truth_se": float((values - base).std(ddof=1) / np.sqrt(len(values))),
            "sigma": float(fit.parameters.estimate["sigma"]),
            "cpu_seconds": seconds,
            "run": conditions(),
        }
        print({key: found[key] for key in ("train_m2ll", "test_m2ll", "above_truth", "cpu_seconds")}, flush=True)
        write({f"{name}_{label}_{key}": value for key, value in found.items()})


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(STUDIES), help="studies, comma-separated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def write(more: Figures) -> None:
        record(arguments.json, more)

    for name in arguments.only.split(","):
        study(name, write)


if __name__ == "__main__":
    main()
