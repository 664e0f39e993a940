"""Does the library find the maximum on theophylline, and do networks earn their place there?

    python benchmarks/theophylline.py --json FILE [--only a,b,c,d,e,f] [--models b,c,d] [--seeds 1,2,3,4,5]

(a) the classical model by SAEM from ten seeds: exact objective function value (adaptive quadrature, without n log 2 pi)
    against the exact maximum 118.1017;
(b) the published four-network model with Omega = I; (c) the same with learned Omega; (d) the hybrid that keeps the
mass balance; (e) how much faster ten iterations of SAEM are by compiled solves than by tensor operations and by
torchdiffeq, at the same tolerance and seed, and whether the estimates are the same; (f) whether (b), (c) with one
variance per network and (d) end alike from five seeds: f_X_SEED_loglik and, once all five are there,
X_loglik_worst_of_5, X_loglik_best_of_5 and, of the slowest fit, X_seconds_most_of_5 (CPU time). Figures of studies that
are not run stay in FILE as they were; X_run says when and how each was made.
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from record import Figures, conditions, record

import nlme_torch as nlme
from nlme_torch.model.density.density import Density


def classical(seeds: int = 10) -> dict[str, float]:
    """Fit the classical model from several seeds and integrate its likelihood exactly."""
    data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
    values, seconds = [], []
    for seed in range(1, seeds + 1):
        begun = time.perf_counter()
        fit = nlme.fit(model, data, nlme.SAEM(), seed=seed, progress=False)
        seconds.append(time.perf_counter() - begun)
        values.append(nlme.loglik(fit, nlme.Quadrature(nodes=15)).ofv)
        print(f"(a) seed {seed}: exact OFV {values[-1]:.4f} in {seconds[-1]:.2f} s", flush=True)
    return {
        "a_ofv_exact_worst": max(values),
        "a_ofv_exact_best": min(values),
        "a_seconds_median": statistics.median(seconds),
    }


NETWORKS = nlme.SAEM(
    starts=24,
    spread=1.0,
    race=nlme.Race(keep=2),
    chains=5,
    warm_up=nlme.Pooled(200),
    schedule=nlme.StepSchedule(exploration=300, smoothing=200),
)
SOLVER = nlme.Tsit5(rtol=1e-5, atol=1e-6)


def neural(letter: str, model: nlme.Model, seed: int = 1) -> dict[str, float]:
    """Fit a model with networks from several starts at once and estimate its marginal likelihood three ways."""
    begun = time.perf_counter()
    fit = nlme.fit(model, nlme.examples.theophylline(), NETWORKS, seed=seed, solver=SOLVER, progress=False)
    seconds = time.perf_counter() - begun
    laplace = nlme.loglik(fit, nlme.Laplace(mode_starts=8))
    marginal = nlme.loglik(fit, nlme.AnnealedImportanceSampling())
    sampled = fit.log_likelihood
    print(fit, flush=True)
    print(f"({letter}) Laplace {laplace.value:.2f}; {marginal.value:.2f} by {marginal.method}", flush=True)
    return {
        f"{letter}_sigma": float(fit.parameters.estimate["sigma"]),
        f"{letter}_seconds": seconds,
        f"{letter}_loglik": marginal.value,
        f"{letter}_loglik_se": marginal.standard_error,
        f"{letter}_loglik_importance": sampled.value,
        f"{letter}_loglik_importance_se": sampled.standard_error,
        f"{letter}_khat_worst": float(sampled.subjects["k_hat"].max()),
        f"{letter}_loglik_laplace": laplace.value,
        f"{letter}_aic": 2 * fit.n_parameters - 2 * marginal.value,
        f"{letter}_bic": math.log(132) * fit.n_parameters - 2 * marginal.value,
        f"{letter}_parameters": float(fit.n_parameters),
    }


def published() -> dict[str, float]:
    """(b) Four networks with Omega = I: importance sampling fails there (k-hat above 1), annealing does not."""
    return neural("b", nlme.examples.TheophyllineFourNetworks())


STRUCTURES: dict[str, nlme.Diagonal | nlme.Scalar | nlme.LowRank] = {
    "diagonal": nlme.Diagonal(0.3),
    "scalar": nlme.Scalar(0.3),
    "low_rank": nlme.LowRank(2),
}


def learned() -> dict[str, float | str]:
    """(c) Four networks with a learned Omega: three structures, the best by BIC is reported."""
    results: dict[str, dict[str, float]] = {}
    for name, structure in STRUCTURES.items():
        print(f"(c) {name}: {structure}", flush=True)
        results[name] = neural("c", nlme.examples.TheophyllineFourNetworks(omega=structure))
    best = min(results, key=lambda name: results[name]["c_bic"])
    each = {
        key.replace("c_", f"c_{name}_", 1): value for name, figures in results.items() for key, value in figures.items()
    }
    return {**results[best], "c_best": best, **each}


def hybrid() -> dict[str, float]:
    """(d) Mass balance with a learned absorption rate."""
    return neural("d", nlme.examples.TheophyllineHybrid())


def solvers() -> dict[str, float]:
    """(e) The classical equation and four networks, ten iterations by each kind of solve; compiling is not counted."""
    data, figures = nlme.examples.theophylline(), {}
    brief = nlme.SAEM(schedule=nlme.StepSchedule(exploration=6, smoothing=4))
    kinds: dict[str, nlme.Auto | nlme.Tsit5 | nlme.TorchDiffEq] = {
        "compiled": nlme.Auto(),
        "plain": nlme.Auto(compile=False),
        "torchdiffeq": nlme.TorchDiffEq(),
    }
    models = {"classical": nlme.examples.TheophyllineClassical(), "networks": nlme.examples.TheophyllineFourNetworks()}
    for name, model in models.items():
        warm = Density(copy.deepcopy(model), data.batch(), nlme.Auto())
        brief.estimate(warm, torch.Generator().manual_seed(1), False)
        estimates = {}
        for kind, solver in kinds.items():
            density = Density(copy.deepcopy(model), data.batch(), solver)
            begun = time.process_time()
            estimates[kind] = brief.estimate(density, torch.Generator().manual_seed(1), False).values
            figures[f"e_{name}_{kind}_seconds"] = time.process_time() - begun
            change = max(
                float((value - estimates["compiled"][key]).abs().max()) for key, value in estimates[kind].items()
            )
            figures[f"e_{name}_{kind}_change"] = change
            print(
                f"(e) {name}, {kind}: {figures[f'e_{name}_{kind}_seconds']:.2f} s, changed by {change:.1e}", flush=True
            )
    return figures


REPEATED: dict[str, Callable[[], nlme.Model]] = {
    "b": nlme.examples.TheophyllineFourNetworks,
    "c": lambda: nlme.examples.TheophyllineFourNetworks(omega=nlme.Scalar(0.3)),
    "d": nlme.examples.TheophyllineHybrid,
}


def repeated(letter: str, seed: int) -> Figures:
    """(f) The networks from one of five seeds."""
    begun = time.process_time()
    fit = nlme.fit(REPEATED[letter](), nlme.examples.theophylline(), NETWORKS, seed=seed, solver=SOLVER, progress=False)
    seconds = time.process_time() - begun
    marginal = nlme.loglik(fit, nlme.AnnealedImportanceSampling(progress=False))
    print(
        f"(f) {letter}, seed {seed}: {marginal.value:.2f} +- {marginal.standard_error:.2f}, {seconds:.0f} s", flush=True
    )
    return {
        f"f_{letter}_{seed}_loglik": marginal.value,
        f"f_{letter}_{seed}_loglik_se": marginal.standard_error,
        f"f_{letter}_{seed}_sigma": float(fit.parameters.estimate["sigma"]),
        f"f_{letter}_{seed}_cpu_seconds": seconds,
        f"f_{letter}_{seed}_status": fit.status.name,
        f"f_{letter}_{seed}_run": conditions(),
    }


def extremes(figures: Figures, letter: str) -> Figures:
    """Worst and best of five seeds, where all of them are known."""
    keys = [f"f_{letter}_{seed}" for seed in range(1, 6)]
    if any(f"{key}_loglik" not in figures for key in keys):
        return {}
    values = [float(figures[f"{key}_loglik"]) for key in keys]
    return {
        f"{letter}_loglik_worst_of_5": min(values),
        f"{letter}_loglik_best_of_5": max(values),
        f"{letter}_seconds_most_of_5": max(float(figures[f"{key}_cpu_seconds"]) for key in keys),
    }


STUDIES: dict[str, Callable[[], dict[str, float] | dict[str, float | str]]] = {
    "a": classical,
    "b": published,
    "c": learned,
    "d": hybrid,
    "e": solvers,
}


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join([*STUDIES, "f"]), help="studies to run, comma-separated")
    parser.add_argument("--models", default=",".join(REPEATED), help="models of (f), comma-separated")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="seeds of (f), comma-separated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    figures: Figures = known
    studies = arguments.only.split(",")
    for name in studies:
        if name == "f":
            continue
        figures.update(STUDIES[name]())
        figures[f"{name}_run"] = conditions()
        record(arguments.json, figures)
    for letter in arguments.models.split(",") if "f" in studies else ():
        for seed in arguments.seeds.split(","):
            figures.update(repeated(letter, int(seed)))
            figures.update(extremes(figures, letter))
            record(arguments.json, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
