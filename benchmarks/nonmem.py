"""Do converted control streams have NONMEM's objectives, and does a fit from their initial values reach them?

    python benchmarks/nonmem.py --json FILE [--only pheno_focei,...] [--no-fits]

The streams of ``tests/reference/nonmem`` are converted by ``nlme.from_nonmem`` with NONMEM's estimates, and evaluated
by the method with which NONMEM printed its objective. convert_ofv_worst is the largest difference. Then each is fitted
from the stream's own initial values; convert_fit_worst is the largest of the objectives that the fits end at, minus
NONMEM's minimum: zero or less where NONMEM's minimum is reached or passed. The numbers are those of ``../shared``:
pharmpy's example (NONMEM 7.4.2), the R package nmw (7.4.1), and R. J. Bauer's tutorial (doi:10.1002/psp4.12404,
doi:10.1002/psp4.12422). Runs without data are left out.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from record import Figures, conditions, record

import nlme_torch as nlme

ROOT = Path(__file__).resolve().parent.parent
STREAMS = ROOT / "tests" / "reference" / "nonmem"
BUNDLED = Path(nlme.__file__).parent / "examples" / "bundled"


class Run(NamedTuple):
    """A stream, its data, NONMEM's estimates and objective, the method, and whether a fit is to reach it."""

    stream: str
    data: Path
    estimates: Mapping[str, float] | None
    objective: float
    method: Any
    fitted: bool


def lower(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """OMEGA row by row, as an .ext file names its entries."""
    return {f"OMEGA({i},{j})": value for i, row in enumerate(rows, 1) for j, value in enumerate(row[:i], 1)}


def points(shared: Path) -> dict[str, Run]:
    """Phenobarbital and theophylline: initial values and printed minima."""
    reference = json.loads((shared / "reference" / "ofv_reference.json").read_text())
    methods = {"FO": nlme.FO(), "FOCEI": nlme.FOCEI(), "LAPLACEI": nlme.Laplace()}
    found = {}
    for stream, key, data in (
        ("pheno", "pheno_real", "phenobarbital.csv"),
        ("theophylline", "theoph_nmw", "theophylline.csv"),
    ):
        for point in reference[key]["points"]:
            estimates = {f"THETA{k}": value for k, value in enumerate(point["theta"], 1)}
            if "omega" in point:
                estimates |= lower(point["omega"])
            elif "omega_diag" in point:
                first, second = point["omega_diag"]
                estimates |= lower([[first], [0.0, second]])
            else:
                a, b, c, d, e, f = point["omega_lower_11_21_31_22_32_33"]
                estimates |= lower([[a], [b, d], [c, e, f]])
            sigmas = point.get("sigma") or [point["sigma2"]]
            estimates |= {f"SIGMA({k},{k})": value for k, value in enumerate(sigmas, 1)}
            final = point["name"] != "init"
            for method, objective in point["NONMEM"].items():
                name = f"{stream}_{method.lower()}" + ("" if final else "_initial")
                found[name] = Run(stream, BUNDLED / data, estimates, objective, methods[method], final)
    return found


def tutorial(shared: Path) -> dict[str, Run]:
    """The tutorial's runs by FOCEI that one likelihood stands for."""
    blocks = json.loads((shared / "reference" / "nonmem_tutorial.json").read_text())
    found = {}
    for name, block, more in (("bauer_501", "covariates_501", {}), ("bauer_r2comp", "tmdd", {"SIGMA(2,1)": 0.0})):
        data = shared / "data" / blocks[block]["data"]
        run = next(run for run in blocks[block]["runs"] if run["method"] == "FOCEI")
        if data.is_file():
            found[f"{name}_focei"] = Run(name, data, {**run["estimates"], **more}, run["objective"], nlme.FOCEI(), True)
    return found


def converted(run: Run, at_estimates: bool) -> Any:
    """The stream's model and data."""
    file = None
    with tempfile.TemporaryDirectory() as folder:
        if at_estimates and run.estimates is not None:
            file = Path(folder) / "run.ext"
            names, values = " ".join(run.estimates), " ".join(map(repr, run.estimates.values()))
            file.write_text(f" ITERATION {names} OBJ\n -1000000000 {values} 0\n")
        return nlme.from_nonmem(STREAMS / f"{run.stream}.mod", file, run.data)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-fits", action="store_true")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    chosen = parser.parse_args()
    runs = {**points(chosen.shared), **tutorial(chosen.shared)}
    wanted = [name for name in chosen.only.split(",") if name] or list(runs)
    for name in wanted:
        run = runs[name]
        at = converted(run, True)
        found = nlme.ofv(at.model, at.data, run.method).ofv
        figures: Figures = {f"{name}_ofv": found, f"{name}_nonmem": run.objective, f"{name}_run": conditions()}
        print(f"{name}: {found:.4f}, NONMEM {run.objective:.4f}", flush=True)
        if run.fitted and not chosen.no_fits:
            start, began = converted(run, False), time.process_time()
            fit = nlme.fit(start.model, start.data, run.method, seed=1, progress=False)
            ended = nlme.ofv(fit.model, start.data, run.method).ofv
            figures |= {
                f"{name}_fit": ended,
                f"{name}_fit_status": fit.status.name,
                f"{name}_fit_cpu_seconds": time.process_time() - began,
            }
            print(f"  fitted: {ended:.4f} ({fit.status.name})", flush=True)
        record(chosen.json, figures)
    if chosen.json is not None:
        known = json.loads(chosen.json.read_text())
        record(chosen.json, worst(known, runs))


def worst(known: Mapping[str, Any], runs: Mapping[str, Run]) -> Figures:
    """The two figures over all runs that the file holds."""
    seen = [name for name in runs if f"{name}_ofv" in known]
    found: Figures = {"convert_ofv_worst": max(abs(known[f"{n}_ofv"] - known[f"{n}_nonmem"]) for n in seen)}
    fitted = [known[f"{n}_fit"] - known[f"{n}_nonmem"] for n in seen if f"{n}_fit" in known]
    return {**found, "convert_fit_worst": max(fitted)} if fitted else found


if __name__ == "__main__":
    main()
