"""The tutorial of the first hour runs from its first line to its last; tutorials/execute.py runs the longer ones."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]


def test_the_first_hour_runs_and_finds_what_it_says(capsys):
    plt.close("all")  # what other tests left open
    try:
        names = runpy.run_path(str(ROOT / "tutorials" / "first_hour.py"))
        assert len(plt.get_fignums()) == 3
    finally:
        plt.close("all")
    tests = names["nlme"].compare(base=names["base"], volume=names["volume"], both=names["both"]).tests
    assert (tests["p"] < 1e-3).all()
    assert names["fit"].parameters.loc["cl_WT", "estimate"] == pytest.approx(1.0, abs=0.4)
    printed = capsys.readouterr().out
    assert "Did you mean p.cl?" in printed and "subject 27, column WT" in printed
