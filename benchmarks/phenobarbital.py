"""Does SAEM find the exact maximum on phenobarbital, from its 589 dosing records?

    python benchmarks/phenobarbital.py --json FILE [--seeds 10]

CL = th1 WT exp(eta1), V = th2 WT (1 + th3 [APGR < 5]) exp(eta2), proportional error, diagonal Omega. The exact
objective function value (adaptive quadrature, without n log 2 pi) at each SAEM estimate is compared with the exact
maximum, 585.903082.
"""

import argparse
import json
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import torch

import nlme_torch as nlme


def main() -> None:
    """Fit from several seeds and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = nlme.examples.phenobarbital()
    values, seconds = [], []
    for seed in range(1, arguments.seeds + 1):
        begun = time.perf_counter()
        fit = nlme.fit(nlme.examples.Phenobarbital(), data, nlme.SAEM(), seed=seed, progress=False)
        seconds.append(time.perf_counter() - begun)
        values.append(nlme.loglik(fit, nlme.Quadrature(nodes=15)).ofv)
        print(f"seed {seed}: exact OFV {values[-1]:.4f} in {seconds[-1]:.1f} s", flush=True)
    print(fit)
    figures = {
        "ofv_exact_worst": max(values),
        "ofv_exact_best": min(values),
        "seconds_median": statistics.median(seconds),
        "seeds": float(arguments.seeds),
        "run": f"{date.today().isoformat()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"1 thread of {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}",
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
