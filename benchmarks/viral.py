"""How near do networks in viral dynamics come to the classical model on subjects they have not seen?

    python benchmarks/viral.py --json FILE [--only simulated_20,...] [--models truth,classical,...] [--shared FOLDER]
    python benchmarks/viral.py --cross-validate growth,infection

Four sets. simulated_20 and simulated_80: the first 20, and all, of 80 subjects simulated from the classical model,
judged on 100 others. file_20 and file_80: subjects 1-20 and 1-80 of FOLDER/data/hiv_viral_dynamics.csv, judged on
subjects 21-100 and 81-100. The models: ``truth``, at the values that the data were simulated from; ``classical``, the
same equations fitted by FOCEI; ``growth``, V' = NN(V, C, eta) V, and ``infection``, a network for the infection of
cells, each fitted by SAEM (growth_saem) and by FOCEI (growth_focei) after a pooled fit, from one initialisation.

SET_MODEL_heldout_nll_per_subject: -log-likelihood of the held-out subjects divided by their number, by importance
sampling; SET_MODEL_training_nll_per_subject: of the training subjects, by the same. SET_MODEL_heldout_se: Monte-Carlo
error. SET_MODEL_above_classical: mean difference from the classical model (the truth where there is one), with
SET_MODEL_above_classical_se, its standard error over held-out subjects. SET_MODEL_cpu_seconds: of the fit.
hiv_network_heldout_nll_per_subject: file_20_infection_saem.

The strength of the growth network's L2 penalty (of 0.03, 0.1 and 0.3), and which network stands under hiv_network, are
what four-fold cross-validation on the first 20 simulated subjects chose (second command); the strength of the infection
network was never varied. Nothing was chosen by looking at held-out subjects.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hiv_reference import read
from record import Figures, conditions, record

import nlme_torch as nlme

GROWTH, INFECTION = 0.03, 0.1
CHOSEN = "infection_saem"  # the better in cross-validation: 4.40 per left-out subject, growth 4.59
LIKELIHOOD = nlme.ImportanceSampling(samples=3000)
POOLED = nlme.Pooled(steps=200)
SAEM = nlme.Staged(POOLED, nlme.SAEM(schedule=nlme.StepSchedule(exploration=150, smoothing=80), chains=6))
FOCEI = nlme.Staged(POOLED, nlme.FOCEI(optimiser=nlme.BFGS(iterations=80), mode_starts=1))
NETWORKS: dict[str, Callable[[float], nlme.Model]] = {
    "growth": nlme.examples.ViralGrowthNetwork,
    "infection": nlme.examples.ViralInfectionNetwork,
}
# one step of Adam evaluates the start and keeps it
STUDIES: dict[str, tuple[Callable[[], nlme.Model], nlme.Staged | nlme.FOCEI]] = {
    "truth": (nlme.examples.ViralTruth, nlme.FOCEI(optimiser=nlme.Adam(iterations=1))),
    "classical": (nlme.examples.ViralDynamics, nlme.FOCEI()),
    "infection_saem": (lambda: NETWORKS["infection"](INFECTION), SAEM),
    "growth_saem": (lambda: NETWORKS["growth"](GROWTH), SAEM),
    "infection_focei": (lambda: NETWORKS["infection"](INFECTION), FOCEI),
    "growth_focei": (lambda: NETWORKS["growth"](GROWTH), FOCEI),
}
SETS = ("simulated_20", "simulated_80", "file_20", "file_80")


def subjects(name: str, shared: Path) -> tuple[nlme.Dataset, nlme.Dataset]:
    """Training and held-out subjects of a set."""
    source, count = name.split("_")
    if source == "simulated":
        train = nlme.examples.viral_data(80, seed=1)
        return train.subset(train.subjects[: int(count)]), nlme.examples.viral_data(100, seed=1001)
    table = shared / "data" / "hiv_viral_dynamics.csv"
    return read(table, range(1, int(count) + 1)), read(table, range(int(count) + 1, 101))


def study(name: str, train: nlme.Dataset, test: nlme.Dataset) -> tuple[Figures, np.ndarray]:
    """Fit one model; its figures, and -log-likelihood of every held-out subject."""
    make, method = STUDIES[name]
    begun = time.process_time()
    fit = nlme.fit(make(), train, method, seed=1, likelihood=LIKELIHOOD, progress=False)
    seconds = time.process_time() - begun
    print(f"\n=== {name}\n{fit}", flush=True)
    held = nlme.held_out(fit, test, LIKELIHOOD)
    values = -held.subjects["log_likelihood"].to_numpy()
    figures: Figures = {
        "heldout_nll_per_subject": float(values.mean()),
        "heldout_se": held.standard_error / test.n_subjects,
        "heldout_k_hat": float(held.subjects["k_hat"].max()),
        "training_nll_per_subject": fit.minus2ll / 2 / train.n_subjects,
        "sigma": float(fit.parameters.estimate["sigma"]),
        "cpu_seconds": seconds,
    }
    return figures, values


def compare(chosen: str, names: list[str], shared: Path, write: Callable[[Figures], None]) -> None:
    """Fit the models to one set, and set them against the classical one, subject by subject."""
    train, test = subjects(chosen, shared)
    base: np.ndarray | None = None
    for name in names:
        if name == "truth" and chosen.startswith("file"):
            continue
        found, values = study(name, train, test)
        base = values if base is None else base
        difference = values - base
        found["above_classical"] = float(difference.mean())
        found["above_classical_se"] = float(difference.std(ddof=1) / np.sqrt(len(difference)))
        found["run"] = conditions()
        print({key: found[key] for key in ("heldout_nll_per_subject", "above_classical")}, flush=True)
        write({f"{chosen}_{name}_{key}": value for key, value in found.items()})
        if chosen == "file_20" and name == CHOSEN:
            write({"hiv_network_heldout_nll_per_subject": found["heldout_nll_per_subject"]})


def cross_validated(names: list[str]) -> None:
    """Print what strength of the penalty predicts left-out training subjects best."""
    train, _ = subjects("simulated_20", Path())
    short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=150, smoothing=60), chains=10)
    method = nlme.Staged(nlme.Pooled(steps=200), short)
    for name in names:
        found = nlme.cross_validate(
            NETWORKS[name], train, method, candidates=[0.03, 0.1, 0.3], folds=4, likelihood=nlme.FOCE(mode_starts=2)
        )
        print(f"{name}, strength of L2:\n{found}", flush=True)


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(SETS), help="sets, comma-separated")
    parser.add_argument("--models", default=",".join(STUDIES), help="models; the first is what others are set against")
    parser.add_argument("--cross-validate", default="", help="networks whose penalty to choose, and nothing else")
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=beside, help="folder of the HIV data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cross_validate:
        return cross_validated(arguments.cross_validate.split(","))

    def write(more: Figures) -> None:
        record(arguments.json, more)

    for chosen in arguments.only.split(","):
        if chosen.startswith("file") and not arguments.shared.exists():
            print(f"{chosen}: no data in {arguments.shared}, skipped")
            continue
        compare(chosen, arguments.models.split(","), arguments.shared, write)


if __name__ == "__main__":
    main()
