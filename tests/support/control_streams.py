"""Control streams as files, and NONMEM's estimates as files of estimates."""

import json
from pathlib import Path

import nlme_torch as nlme

HERE = Path(__file__).resolve().parent.parent
STREAMS = HERE / "reference" / "nonmem"
BUNDLED = Path(nlme.__file__).parent / "examples" / "bundled"
SHARED = HERE.parents[1] / "shared"
AVAILABLE = (SHARED / "reference" / "nonmem_tutorial.json").exists()


def estimates_file(folder, estimates):
    """An .ext file with these final estimates."""
    file = Path(folder) / "run.ext"
    names, values = " ".join(estimates), " ".join(map(repr, estimates.values()))
    file.write_text(f"TABLE NO. 1: some method\n ITERATION {names} OBJ\n 0 {values} 9\n -1000000000 {values} 9\n")
    return file


def lower_triangle(name, rows):
    """Entries OMEGA(2,1) of a matrix given row by row."""
    return {
        f"{name}({i},{j})": value for i, row in enumerate(rows, 1) for j, value in enumerate(row[:i], 1)
    }  # fmt: skip


def tutorial_run(block, method):
    """NONMEM's objective and estimates of a run of the published tutorial."""
    runs = json.loads((SHARED / "reference" / "nonmem_tutorial.json").read_text())[block]["runs"]
    run = next(run for run in runs if run["method"] == method)
    return run["objective"], run["estimates"]


def written(folder, text, name="run1.mod"):
    """A control stream in a folder."""
    file = Path(folder) / name
    file.write_text(text)
    return file
