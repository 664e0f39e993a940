"""Does SAEM find the exact maximum on warfarin from its dosing records, and does PK with PD run?

    python benchmarks/warfarin.py --data warfarin.csv --json FILE [--only pk,ode,joint]

pk: transit absorption in closed form, 32 subjects, 251 concentrations; exact objective function value at the SAEM
estimate (adaptive quadrature) against the maximum by quadrature, 290.96. ode: the same as a differential equation.
joint: PK and prothrombin complex activity by an indirect response, against soft references (kout 0.051-0.053 1/h, E0
96-97, IC50 1.05-1.2 mg/L, PD residual SD 3.5-3.7). The file is distributed with nlmixr2data and may not be bundled.
"""

import argparse
import json
import math
import os
import platform
import time
from datetime import date
from pathlib import Path

import torch

import nlme_torch as nlme


def pk(path: Path, model: nlme.Model, letter: str, seeds: int) -> dict[str, float]:
    """Fit the concentrations from some seeds; integrate the likelihood exactly."""
    data = nlme.Dataset.from_csv(path, outputs={"PK": "cp"}, covariates=["wt"])
    figures: dict[str, float] = {}
    values = []
    for seed in range(1, seeds + 1):
        begun = time.perf_counter()
        fit = nlme.fit(model, data, nlme.SAEM(), seed=seed, progress=False)
        seconds = time.perf_counter() - begun
        values.append(nlme.loglik(fit, nlme.Quadrature(nodes=11)).ofv)
        print(f"{letter} seed {seed}: exact OFV {values[-1]:.4f} in {seconds:.1f} s", flush=True)
    print(fit)
    estimate = fit.parameters.estimate
    for name in ("ktr", "v", "cl", "a", "b"):
        figures[f"{letter}_{name}"] = float(estimate[name])
    for label, variance in zip(("ktr", "v", "cl"), fit.omega.to_numpy().diagonal(), strict=True):
        figures[f"{letter}_omega2_{label}"] = float(variance)
    return figures | {f"{letter}_ofv_exact_worst": max(values), f"{letter}_seconds": seconds}


def joint(path: Path) -> dict[str, float]:
    """Fit PK and PD at once."""
    data = nlme.Dataset.from_csv(path, outputs={"PK": "cp", "PD": "pca"}, covariates=["wt"])
    begun = time.perf_counter()
    fit = nlme.fit(nlme.examples.WarfarinTurnover(), data, nlme.SAEM(), seed=1, progress=False)
    seconds = time.perf_counter() - begun
    print(fit)
    estimate = fit.parameters.estimate
    names = ("ktr", "v", "cl", "ic50", "kout", "e0", "a", "b", "sigma_pd")
    figures = {f"joint_{name}": float(estimate[name]) for name in names}
    value = fit.log_likelihood
    return figures | {"joint_minus2ll": value.minus2ll, "joint_minus2ll_se": 2 * value.standard_error,
                      "joint_seconds": seconds}  # fmt: skip


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="warfarin.csv of nlmixr2data")
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default="pk,ode,joint")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    figures: dict[str, float | str] = known
    studies = arguments.only.split(",")
    if "pk" in studies:
        figures |= pk(arguments.data, nlme.examples.WarfarinTransit(), "pk", arguments.seeds)
    if "ode" in studies:
        figures |= pk(arguments.data, nlme.examples.WarfarinTransitEquation(), "ode", 1)
    if "joint" in studies:
        figures |= joint(arguments.data)
    figures["run"] = (
        f"{date.today().isoformat()}, Python {platform.python_version()}, torch {torch.__version__}, 1 thread of "
        f"{os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}"
    )
    assert all(not isinstance(value, float) or math.isfinite(value) for value in figures.values())
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
