"""How long do FO, FOCE, FOCEI and Laplace take to the maximum, and is it the maximum?

    python benchmarks/foce.py --json FILE [--only theoph_fo,theoph_focei,...] [--shared FOLDER]

theoph_fo, theoph_focei, theoph_laplace: theophylline with full Omega and combined error in closed form, from the start
of a published NONMEM run (optima 57.321065, 92.830870, 93.558704). phenobarbital_focei: repeated doses through a
differential equation (586.27606). hiv_classical, hiv_network: viral dynamics, from FOLDER/data and FOLDER/reference;
their objective is -log-likelihood (- log prior); hiv_network_passing is the beginning of hiv_network, as far as the
reference came. Compiling the equations is not counted: every fit is run twice and the
second is timed (hiv_network, ten minutes, once).
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hiv_reference import classical, network, read
from record import Figures, conditions, record

import nlme_torch as nlme
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign


def started(model: nlme.Model, params: dict) -> nlme.Model:
    """A copy of a model at given parameters."""
    model = copy.deepcopy(model)
    assign(model, values_from_natural(model, params))
    return model


def timed(
    name: str, model: nlme.Model, data: nlme.Dataset, method, solver=None, once: bool = False
) -> tuple[nlme.Fit, Figures]:
    """Fit (a second time, unless once) and report."""
    if not once:
        nlme.fit(model, data, method, solver=solver, progress=False)
    begun, used = time.perf_counter(), time.process_time()
    fit = nlme.fit(model, data, method, solver=solver, progress=False)
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    figures: Figures = {
        f"{name}_ofv": fit.ofv,
        f"{name}_seconds": seconds,
        f"{name}_cpu_seconds": used,
        f"{name}_iterations": len(fit.trace),
        f"{name}_gradient": float(fit.trace["gradient"].iloc[-1]),
        f"{name}_termination": fit.termination,
    }
    print(f"{name}: OFV {fit.ofv:.6f} in {seconds:.2f} s; {fit.termination}", flush=True)
    return fit, figures


def theophylline(name: str, method) -> Figures:
    correlated = [[0.2, 0.1, 0.1], [0.1, 0.2, 0.1], [0.1, 0.1, 0.2]]
    model = started(nlme.examples.TheophyllineFullOmega(), {"all": correlated})
    return timed(name, model, nlme.examples.theophylline(), method)[1]


def phenobarbital() -> Figures:
    params = {"cl": 0.00469307, "v": 1.00916, "asphyxia": 0.1, "omega_cl": 0.0309626, "omega_v": 0.031128}
    model = started(nlme.examples.Phenobarbital(), {**params, "sigma": math.sqrt(0.0130865)})
    return timed("phenobarbital_focei", model, nlme.examples.phenobarbital(), nlme.FOCEI())[1]


def hiv(name: str, shared: Path) -> Figures:
    reference = json.loads((shared / "reference" / "hiv_foce_reference.json").read_text())
    table = shared / "data" / "hiv_viral_dynamics.csv"
    known = name == "hiv_classical"
    block = reference["classical" if known else "deepnlme_v"]
    model: nlme.Model = nlme.examples.ViralDynamics() if known else nlme.examples.ViralNetwork()
    named = classical if known else network
    data = read(table, None if known else range(1, 21))
    # virus counts fall to 1e-3: mind atol; the last digits of a gradient want a tight solve
    solver = nlme.Auto() if known else nlme.Tsit5(rtol=1e-7, atol=1e-11)
    trials = nlme.TrustRegion()
    method = nlme.FOCE() if known else nlme.Staged(nlme.Pooled(steps=300), nlme.FOCE(optimiser=trials, mode_starts=1))
    figures: Figures = {}
    for point in ("init", "final"):
        value = nlme.ofv(model, data, nlme.FOCE(), named(block[point]), solver=solver)
        figures[f"{name}_objective_at_reference_{point}"] = value.penalised / 2
        figures[f"{name}_reference_{point}"] = block[f"objective_{point}"]
        if not known:  # as accurately as engines solve by default, modes searched from zero: what the reference saw
            coarse, search = nlme.Tsit5(rtol=1e-4, atol=1e-6), nlme.FOCE(mode_starts=1)
            value = nlme.ofv(model, data, search, named(block[point]), solver=coarse)
            figures[f"{name}_objective_at_reference_{point}_rtol_1e-4"] = value.penalised / 2
    fit, more = timed(name, started(model, named(block["init"])), data, method, solver, once=True)
    figures.update(more)
    figures[f"{name}_objective"] = fit.minus2ll / 2 - fit.log_prior
    if not known:
        others = read(table, range(21, 101))
        for label, chosen in (("own", fit.model), ("reference", started(model, named(block["final"])))):
            figures[f"{name}_held_out_{label}"] = nlme.ofv(chosen, others, nlme.FOCE(), solver=solver).minus2ll / 2
    return figures


def passing(shared: Path) -> Figures:
    """The network's fit ended after 80 trials: how long until the reference's value is passed, at most."""
    block = json.loads((shared / "reference" / "hiv_foce_reference.json").read_text())["deepnlme_v"]
    data = read(shared / "data" / "hiv_viral_dynamics.csv", range(1, 21))
    method = nlme.Staged(nlme.Pooled(steps=300), nlme.FOCE(nlme.TrustRegion(iterations=80), mode_starts=1))
    model, solver = started(nlme.examples.ViralNetwork(), network(block["init"])), nlme.Tsit5(rtol=1e-7, atol=1e-11)
    fit, figures = timed("hiv_network_passing", model, data, method, solver)
    reached = fit.minus2ll / 2 - fit.log_prior
    seconds = figures["hiv_network_passing_seconds"] if reached < block["objective_final"] else math.inf
    return {"hiv_network_passing_objective": reached, "hiv_network_seconds_to_reference": seconds}


STUDIES: dict[str, Callable[[Path], Figures]] = {
    "theoph_fo": lambda shared: theophylline("theoph_fo", nlme.FO()),
    "theoph_focei": lambda shared: theophylline("theoph_focei", nlme.FOCEI()),
    "theoph_laplace": lambda shared: theophylline("theoph_laplace", nlme.Laplace()),
    "phenobarbital_focei": lambda shared: phenobarbital(),
    "hiv_classical": lambda shared: hiv("hiv_classical", shared),
    "hiv_network_passing": passing,
    "hiv_network": lambda shared: hiv("hiv_network", shared),
}


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(STUDIES), help="studies to run, comma-separated")
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=beside, help="folder of the HIV data and their reference")
    arguments = parser.parse_args()
    figures: Figures = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for name in arguments.only.split(","):
        if name.startswith("hiv") and not arguments.shared.exists():
            print(f"{name}: no data in {arguments.shared}, skipped")
            continue
        torch.set_num_threads(1)  # small problems lose by a second one
        figures.update(STUDIES[name](arguments.shared))
        figures[f"{name}_run"] = conditions()
        record(arguments.json, figures)


if __name__ == "__main__":
    main()
