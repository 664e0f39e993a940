"""From how many poor starts is the maximum found, and how often is it claimed where it was not?

    python benchmarks/starts.py --json FILE [--only orange,...] [--methods saem,focei,laplace] [--starts 20]
                                [--processes 2] [--shared FOLDER]

Problems stand in ``start_problems.py``; those of ``simulated_problems.py`` are run where ``--only`` names them. Start k
multiplies typical values by 3^U(-1, 1) (odds, where they lie between bounds), variances of random effects
and the residual standard deviation by 10^U(-1, 1), drawn with seed k (covariate coefficients stay). A fit has
succeeded where its -2LL, by its own approximation (SAEM: by exact quadrature), is at most 0.1 (SAEM: 0.2) above the
lowest known, or within that of what the same method reaches from the problem's own values (flip-flop absorption and
exchanged exponentials have mirrored optima). Where the fit from the problem's
own values finds no maximum, because the objective falls without bound (status UNBOUNDED or SINGULAR), a fit has
succeeded that says so, too; "unbounded" is the share that does. Per problem and method: success and false_converged
(share that says converged elsewhere), seconds of CPU time (median and largest), best and centre (-2LL). Over all
problems: success_METHOD, false_converged.
"""

import argparse
import copy
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from record import Figures, conditions, record
from simulated_problems import SIMULATED
from start_problems import PROBLEMS, Problem

import nlme_torch as nlme
from nlme_torch.inference.estimates.status import Status
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.transforms import Logit

METHODS = {"saem": nlme.SAEM, "focei": nlme.FOCEI, "laplace": nlme.Laplace}
CLOSE = {"saem": 0.2, "focei": 0.1, "laplace": 0.1}


class Outcome(NamedTuple):
    """What one fit came to; the start None is the problem's own."""

    problem: str
    method: str
    start: int | None
    minus2ll: float
    converged: bool
    warned: bool
    seconds: float
    error: str


@cache
def problem_of(name: str, shared: Path) -> Problem:
    """A problem, made once per process."""
    return {**PROBLEMS, **SIMULATED}[name](shared)


def displaced(component: IndividualParameter | PopulationParameter, factor: float) -> float:
    """The value times a factor, where it has two bounds by its odds."""
    transform, value = component.transform, torch.as_tensor(float(component.value), dtype=torch.float64)
    if isinstance(transform, Logit):
        return float(transform.forward(transform.inverse(value) + math.log(factor)))
    return float(value) * factor


def started(model: nlme.Model, start: int) -> nlme.Model:
    """A copy of the model at randomly displaced values."""
    model, random = copy.deepcopy(model), np.random.default_rng(start)
    params: dict[str, float] = {}
    for name, component in model.components.items():
        if isinstance(component, IndividualParameter):
            params[name] = displaced(component, 3 ** random.uniform(-1, 1))
            params[f"omega_{name}"] = float(component.omega) * 10 ** random.uniform(-1, 1)
        elif isinstance(component, PopulationParameter):
            residual = name in ("a", "b") or name.startswith("sigma")
            params[name] = displaced(component, (10 if residual else 3) ** random.uniform(-1, 1))
    assign(model, values_from_natural(model, params))
    return model


def attempt(name: str, method: str, start: int | None, shared: Path) -> Outcome:
    """One fit."""
    torch.set_num_threads(1)
    problem = problem_of(name, shared)
    model = copy.deepcopy(problem.model) if start is None else started(problem.model, start)
    used = time.process_time()
    try:
        fit = nlme.fit(model, problem.data, METHODS[method](), seed=start or 0, progress=False)
    except nlme.NLMEError as error:
        return Outcome(name, method, start, math.inf, False, True, time.process_time() - used, str(error))
    seconds = time.process_time() - used
    value = fit.minus2ll
    if method == "saem":
        nodes = 15 if fit.model.n_effects <= 3 else 9
        value = nlme.ofv(fit.model, problem.data, nlme.Quadrature(nodes=nodes)).minus2ll
    # what grows without bound is no maximum to be reached
    endless = fit.status in (Status.UNBOUNDED, Status.SINGULAR)
    value = value if math.isfinite(value) and not endless else math.inf
    print(f"  {name} {method} {start or 'own values'}: {value:.3f} {fit.status.name} {seconds:.1f} s", flush=True)
    return Outcome(name, method, start, value, fit.converged, bool(fit.warnings), seconds, "")


def judged(found: list[Outcome], known: float, close: float) -> Figures:
    """The figures of one problem and method."""
    centre = next(one for one in found if one.start is None)
    starts = [one for one in found if one.start is not None]
    best = min([known, *(one.minus2ll for one in found)])
    reached = [
        not one.error
        and (one.minus2ll in (best, centre.minus2ll) or one.minus2ll <= best + close)
        or abs(one.minus2ll - centre.minus2ll) <= close
        for one in starts
    ]
    false = [one.converged and not there for one, there in zip(starts, reached, strict=True)]
    seconds = [one.seconds for one in starts]
    known_values = {"best": best, "centre": centre.minus2ll}
    return {
        **{label: value for label, value in known_values.items() if math.isfinite(value)},
        "unbounded": sum(math.isinf(one.minus2ll) and not one.error for one in starts) / len(starts),
        "success": sum(reached) / len(starts),
        "false_converged": sum(false) / len(starts),
        "seconds_median": float(np.median(seconds)),
        "seconds_most": max(seconds),
        "missed": "; ".join(
            f"{one.start}: {one.minus2ll:.3f}{' converged' if one.converged else ''}{one.error[:80]}"
            for one, there in zip(starts, reached, strict=True)
            if not there
        ),
    }


def totals(figures: Figures) -> Figures:
    """Shares over all problems."""
    summary: Figures = {}
    for method in METHODS:
        shares = [float(v) for k, v in figures.items() if k.endswith(f"_{method}_success")]
        if shares:
            summary[f"success_{method}"] = sum(shares) / len(shares)
    false = [float(v) for k, v in figures.items() if k.endswith("_false_converged")]
    return {**summary, "false_converged": sum(false) / len(false)}


def main() -> None:
    """Run the fits and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(PROBLEMS), help="problems, comma-separated")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods, comma-separated")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--shared", type=Path, default=beside, help="folder of the orange and warfarin data")
    arguments = parser.parse_args()
    figures: Figures = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        waiting = {}
        for name in arguments.only.split(","):
            for method in problem_of(name, arguments.shared).methods:
                if method in arguments.methods.split(","):
                    waiting[name, method] = [
                        pool.submit(attempt, name, method, start, arguments.shared)
                        for start in (None, *range(1, arguments.starts + 1))
                    ]
        for (name, method), futures in waiting.items():
            found = [future.result() for future in futures]
            key = f"{name}_{method}"
            more = judged(found, float(figures.get(f"{key}_best", math.inf)), CLOSE[method])
            figures.update({f"{key}_{label}": value for label, value in more.items()})
            figures[f"{key}_run"] = f"{arguments.starts} starts, {conditions()}"
            print(
                f"{key}: success {more['success']:.2f}, falsely converged {more['false_converged']:.2f}, best "
                f"{more.get('best', math.inf):.3f}, {more['seconds_median']:.1f} s; {more['missed']}",
                flush=True,
            )
            record(arguments.json, {**figures, **totals(figures)})
    print({key: value for key, value in totals(figures).items()})


if __name__ == "__main__":
    main()
