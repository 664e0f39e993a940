"""Do the ways to a standard error agree, and what do they cost?

    python benchmarks/uncertainty.py --json FILE [--samples 200]

Theophylline (classical model, 12 subjects, closed form) and phenobarbital (59 subjects, 589 doses), each fitted by
FOCEI: R, the sandwich, Louis's formula by Markov chains, sampling importance resampling, case and parametric bootstrap,
and the likelihood profile of every structural parameter, of which half the width of the interval stands for 1.96
standard errors. Seconds are CPU time of one thread.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import nlme_torch as nlme

CASES = {
    "theophylline": (nlme.examples.TheophyllineClosedForm, nlme.examples.theophylline),
    "phenobarbital": (nlme.examples.Phenobarbital, nlme.examples.phenobarbital),
}


def main() -> None:
    """Compute all of them and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--samples", type=int, default=200, help="data sets of each bootstrap")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name, (model, data) in CASES.items():
        fit = nlme.fit(model(), data(), nlme.FOCEI(), progress=False)
        print(fit, flush=True)
        errors: dict[str, pd.Series] = {}
        for way, compute in ways(fit, arguments.samples).items():
            begun = time.process_time()
            errors[way] = compute()
            figures[f"{name}_{way}_seconds"] = time.process_time() - begun
            print(f"{name} {way}: {figures[f'{name}_{way}_seconds']:.2f} s", flush=True)
            failed = errors[way].pop("failed") if "failed" in errors[way] else 0.0
            figures |= {f"{name}_{way}_se_{label}": float(value) for label, value in errors[way].items()}
            figures[f"{name}_{way}_failed"] = failed
        print(pd.DataFrame(errors).to_string(float_format=lambda value: f"{value:.4g}", na_rep=""), flush=True)
    figures["samples"] = float(arguments.samples)
    figures["run"] = (
        f"{date.today().isoformat()}, Python {platform.python_version()}, torch {torch.__version__}, 1 thread of "
        f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def ways(fit: nlme.Fit, samples: int) -> dict[str, Callable[[], pd.Series]]:
    """Return the name of every way and how to compute its standard errors."""
    stochastic = nlme.StochasticInformation(progress=False)
    return {
        "r": lambda: nlme.standard_errors(fit, kind="R").table["se"],
        "sandwich": lambda: nlme.standard_errors(fit).table["se"],
        "stochastic": lambda: nlme.standard_errors(fit, stochastic, kind="R").table["se"],
        "sir": lambda: nlme.sir(fit, progress=False).table["se"],
        "case": lambda: counted(nlme.case_bootstrap(fit, samples=samples, progress=False)),
        "parametric": lambda: counted(nlme.parametric_bootstrap(fit, samples=samples, progress=False)),
        "profile": lambda: pd.Series(
            {name: width(fit, name) for name in fit.parameters.index if not name.startswith("omega_")}
        ),
    }


def counted(found: nlme.Bootstrap) -> pd.Series:
    """Return the standard errors of a bootstrap and how many refits failed."""
    return pd.concat([found.table["se"], pd.Series({"failed": float(found.failed)})])


def width(fit: nlme.Fit, name: str) -> float:
    """Return the half-width of the profile's interval, in the units of a standard error."""
    found = nlme.profile(fit, name, points=0, progress=False)
    return (found.upper - found.lower) / (2 * 1.959964)


if __name__ == "__main__":
    main()
