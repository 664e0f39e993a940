"""Does the library find the maximum on theophylline, and do networks earn their place there?

    python benchmarks/theophylline.py --json FILE [--only a,b,c,d]

(a) the classical model by SAEM from ten seeds: exact objective function value (adaptive quadrature, without n log 2 pi)
    against the exact maximum 118.1017;
(b) the published four-network model with Omega = I; (c) the same with learned Omega; (d) the hybrid that keeps the mass balance.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

import nlme_torch as nlme


def classical(seeds: int = 10) -> dict[str, float]:
    """Fit the classical model from several seeds and integrate its likelihood exactly."""
    data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
    values, seconds = [], []
    for seed in range(1, seeds + 1):
        begun = time.perf_counter()
        fit = nlme.fit(model, data, nlme.SAEM(), seed=seed, progress=False)
        seconds.append(time.perf_counter() - begun)
        values.append(nlme.loglik(fit, nlme.QuadratureLikelihood(15)).ofv)
        print(f"(a) seed {seed}: exact OFV {values[-1]:.4f} in {seconds[-1]:.2f} s", flush=True)
    return {
        "a_ofv_exact_worst": max(values),
        "a_ofv_exact_best": min(values),
        "a_seconds_median": statistics.median(seconds),
    }


STUDIES: dict[str, Callable[[], dict[str, float]]] = {"a": classical}


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(STUDIES), help="studies to run, comma-separated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float | str] = {
        "date": date.today().isoformat(), "python": platform.python_version(), "torch": torch.__version__,
        "processors": float(torch.get_num_threads()),
    }
    for name in arguments.only.split(","):
        figures.update(STUDIES[name]())
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
