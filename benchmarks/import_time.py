"""How much CPU time does ``import nlme_torch`` cost, and how much the first use of everything?

    python benchmarks/import_time.py [--runs 5] [--json FILE]

import_seconds: beyond ``import torch``, which is loaded before the clock starts. import_first_use_seconds: after that,
until every public name has been loaded, which is what a script pays that fits and draws. Each in fresh processes; the
smallest of the runs counts, because other work on the machine only ever adds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from record import conditions, record

SCRIPT = """
import time
import torch
begun = time.process_time()
import nlme_torch
imported = time.process_time()
for name in dir(nlme_torch):
    getattr(nlme_torch, name)
print(imported - begun, time.process_time() - imported)
"""


def seconds(runs: int) -> tuple[float, float]:
    """CPU time of the import, and of loading every public name after it."""
    times = []
    for _ in range(runs):
        run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
        times.append([float(value) for value in run.stdout.split()])
    imported, used = (min(column) for column in zip(*times, strict=True))
    return imported, used


def main() -> None:
    """Measure, print, and add the figures to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    imported, used = seconds(options.runs)
    print(f"import nlme_torch: {imported:.3f} s of CPU time beyond torch; first use of everything: {used:.2f} s")
    record(
        options.json,
        {"import_seconds": imported, "import_first_use_seconds": used, "import_run": conditions()},
    )


if __name__ == "__main__":
    main()
