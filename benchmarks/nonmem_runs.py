"""Are NONMEM's objectives, estimates and standard errors met on the runs of a published tutorial?

    python benchmarks/nonmem_runs.py --json FILE [--only covariates_focei,tmdd_focei,...]

R. J. Bauer's NONMEM tutorial (2019, doi:10.1002/psp4.12404 and doi:10.1002/psp4.12422): models in
tests/support/tutorial_models.py, data and NONMEM's numbers in shared/ beside the checkout.

Per run: value, our objective at NONMEM's estimates minus NONMEM's; fit, our objective at our estimates minus NONMEM's;
estimates, the largest difference of an estimate in NONMEM's standard errors; standard_errors, the largest relative
difference (R^-1, as the runs have it); status; seconds of CPU time of the whole fit, beside nonmem_seconds.
nonmem_value_worst and nonmem_fit_worst are the largest over the FOCEI runs, which NONMEM converged (fit: where ours is
higher). NONMEM's importance sampling has an error of its own, so its runs show exact objectives at its estimates
(X_error is one standard error of ours) and what SAEM gains over them: covariates_imp (its own value, 1051.79, is high;
1051.5218 is exact), blq_imp, tmdd_imp. mixture: value only, from the objectives of both classes (a mixture cannot be
fitted yet). sites: value only, against two independent programs; NONMEM's own objective of levels is another quantity.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from certificate import EvenDraws
from record import Figures, conditions, record

import nlme_torch as nlme
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import support.tutorial_models as tutorial  # noqa: E402

Params = dict[str, Any]


def started(model: nlme.Model, params: Mapping[str, Any]) -> nlme.Model:
    """A copy of a model at given parameters."""
    model = copy.deepcopy(model)
    assign(model, values_from_natural(model, params))
    return model


def on_nonmem_scale(name: str, value: float, se: float) -> tuple[float, float]:
    """Typical values as NONMEM's THETA (log), residual standard deviations as its SIGMA (variance)."""
    if name.startswith("sigma"):
        return value**2, 2 * value * se
    if name.startswith("omega") or "_" in name:
        return value, se
    return math.log(value), se / value


def differences(fit: nlme.Fit, run: Mapping[str, Any], params_of: Callable[[Mapping[str, float]], Params]) -> Figures:
    """Estimates and standard errors beside NONMEM's; entries are matched by their estimates' derivative."""
    table = fit.with_standard_errors(kind="R").uncertainty.table
    centre, figures = run["estimates"], {}
    worst, worst_error = 0.0, 0.0
    for key, error in run["standard_errors"].items():
        if not error:
            continue
        moved = flattened(fit.model, params_of({**centre, key: centre[key] * (1 + 1e-6)}))
        base = flattened(fit.model, params_of(centre))
        (name,) = [name for name in base if not math.isclose(moved[name], base[name], rel_tol=1e-9)]
        value, se = on_nonmem_scale(name, float(table.estimate[name]), float(table.se[name]))
        worst = max(worst, abs(value - centre[key]) / error)
        worst_error = max(worst_error, abs(se / error - 1))
    figures["estimates"], figures["standard_errors"] = worst, worst_error
    return figures


def flattened(model: nlme.Model, params: Params) -> dict[str, float]:
    """Parameters by the names of a fit's table: matrices entry by entry."""
    flat: dict[str, float] = {}
    for name, value in params.items():
        if isinstance(value, list):
            labels = [label.removeprefix("eta_") for label in model.effect_labels]
            matrix = np.asarray(value)
            for row, label in enumerate(labels):
                flat[f"omega_{label}"] = matrix[row, row]
                flat.update({f"omega_{labels[column]},{label}": matrix[row, column] for column in range(row)})
        else:
            flat[name] = value
    return flat


def focei(name: str, model: nlme.Model, data: nlme.Dataset, params_of: Callable[..., Params]) -> Figures:
    """Value at NONMEM's estimates, own fit from the model's initial values, standard errors."""
    run = tutorial.reference(name)["FOCEI"]
    value = nlme.ofv(model, data, nlme.FOCEI(), params=params_of(run["estimates"])).ofv - run["objective"]
    nlme.ofv(model, data, nlme.FOCEI())  # compiles: not counted
    used = time.process_time()
    fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
    return {
        "value": value,
        "fit": fit.ofv - run["objective"],
        "seconds": time.process_time() - used,
        "nonmem_seconds": min(run["seconds"]),
        "status": fit.status.name,
        **differences(fit, run, params_of),
    }


def imp(
    name: str,
    model: nlme.Model,
    data: nlme.Dataset,
    params_of: Callable[..., Params],
    exact: nlme.Quadrature | EvenDraws,
) -> Figures:
    """Exact value at NONMEM's estimates, and what SAEM from the model's initial values comes to."""
    runs = tutorial.reference(name)
    run = runs.get("IMP", runs.get("IMP at SAEM's estimates"))
    assert run is not None
    there = nlme.ofv(model, data, exact, params=params_of(run["estimates"]))
    used = time.process_time()
    fit = nlme.fit(model, data, nlme.SAEM(), seed=1, progress=False)
    seconds = time.process_time() - used
    here = nlme.ofv(fit.model, data, exact)
    return {
        "exact": there.ofv,
        "exact_error": there.standard_error,
        "value": there.ofv - run["objective"],
        "saem_above_nonmem": here.ofv - there.ofv,
        "saem_above_nonmem_error": math.hypot(here.standard_error, there.standard_error),
        "seconds": seconds,
        "status": fit.status.name,
    }


def mixture() -> Figures:
    """-2 log(p L1 + (1 - p) L2), each class by FOCEI."""
    run = tutorial.reference("mixture")["FOCEI"]
    estimates, data = run["estimates"], tutorial.classes_data()
    share = estimates["THETA5"]
    terms = []
    for place, part in ((1, share), (3, 1 - share)):
        params = tutorial.classes_params(estimates, place)
        found = nlme.ofv(tutorial.OneClass(), data, nlme.FOCEI(), params=params)
        terms.append(math.log(part) - 0.5 * found.subjects["ofv"].to_numpy())
    return {"value": -2 * float(np.logaddexp(*terms).sum()) - run["objective"]}


def sites() -> Figures:
    """All effects of a site, its subjects and their occasions in one block."""
    run = tutorial.reference("site_subject_occasion")["FOCEI with levels"]
    params = tutorial.sites_params(run["estimates"])
    found = nlme.ofv(tutorial.Sites(), tutorial.sites_data(), nlme.FOCEI(), params=params)
    return {"value": found.ofv - 1584.2245}


COVARIATES = (tutorial.Covariates, tutorial.covariates_data, tutorial.covariates_params)
BELOW = (tutorial.BelowLimit, tutorial.below_limit_data, tutorial.below_limit_params)
TARGET = (tutorial.TargetMediated, tutorial.target_mediated_data, tutorial.target_mediated_params)
STUDIES: dict[str, Callable[[], Figures]] = {
    "covariates_focei": lambda: focei("covariates_501", COVARIATES[0](), COVARIATES[1](), COVARIATES[2]),
    "covariates_imp": lambda: imp(
        "covariates_501", COVARIATES[0](), COVARIATES[1](), COVARIATES[2], nlme.Quadrature(nodes=25)
    ),
    "blq_imp": lambda: imp("blq", BELOW[0](), BELOW[1](), BELOW[2], EvenDraws()),
    "tmdd_focei": lambda: focei("tmdd", TARGET[0](), TARGET[1](), TARGET[2]),
    "tmdd_imp": lambda: imp("tmdd", TARGET[0](), TARGET[1](), TARGET[2], EvenDraws()),
    "mixture_focei": mixture,
    "sites_focei": sites,
}


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(STUDIES), help="runs, comma-separated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: Figures = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for name in arguments.only.split(","):
        found = STUDIES[name]()
        figures.update({f"{name}_{key}": value for key, value in found.items()})
        figures[f"{name}_run"] = conditions()
        print(name, json.dumps(found, indent=1), flush=True)
        values = [float(v) for k, v in figures.items() if k.endswith("focei_value")]
        fits = [float(v) for k, v in figures.items() if k.endswith("focei_fit")]
        figures["nonmem_value_worst"] = max((abs(value) for value in values), default=math.nan)
        figures["nonmem_fit_worst"] = max(fits, default=math.nan)
        record(arguments.json, figures)


if __name__ == "__main__":
    main()
