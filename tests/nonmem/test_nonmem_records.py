"""Records one by one: what their many ways of writing come to."""

import numpy as np
import pytest

import nlme_torch as nlme
from nlme_torch.nonmem.control_stream import read_control_stream
from nlme_torch.nonmem.method import read_method
from nlme_torch.nonmem.values import read_blocks, read_estimates, read_thetas
from tests.support.control_streams import STREAMS, written


def stream(folder, text):
    return read_control_stream(written(folder, text))


@pytest.mark.parametrize(
    ("text", "values", "bounds", "fixed"),
    [
        ("$THETA 1 2", [1, 2], [(-np.inf, np.inf)] * 2, [False] * 2),
        ("$THETA (0, 1)\n(0,2,3)", [1, 2], [(0, np.inf), (0, 3)], [False] * 2),
        ("$THETA (0 1 3)", [1], [(0, 3)], [False]),
        ("$THETA 0.75 FIX (1 FIXED) (0,5,10) FIX", [0.75, 1, 5], [(-np.inf, np.inf)] * 2 + [(0, 10)], [True] * 3),
        ("$THETA (0.5)X3 (-INF,1,INF)", [0.5] * 3 + [1], [(-np.inf, np.inf)] * 4, [False] * 4),
        ("$THETA (0,\n 1.5D0,\n 1000000) ; CL", [1.5], [(0, np.inf)], [False]),
        ("$THETA (1,,3) CL=(0,4) NAMES(A)", [2, 4], [(1, 3), (0, np.inf)], [False] * 2),
    ],
)
def test_thetas(tmp_path, text, values, bounds, fixed):
    found = read_thetas(stream(tmp_path, text + "\n"))
    assert [theta.value for theta in found] == values
    assert [(theta.lower, theta.upper) for theta in found] == bounds
    assert [theta.fixed for theta in found] == fixed


@pytest.mark.parametrize(
    ("text", "matrices"),
    [
        ("$OMEGA 0.1 0.2 ; two", [[[0.1]], [[0.2]]]),
        ("$OMEGA DIAGONAL(2) 0.1 FIX 0.2", [[[0.1]], [[0.2]]]),
        ("$OMEGA STANDARD 0.3", [[[0.09]]]),
        ("$OMEGA (0.3 SD) (FIX 0.2)", [[[0.09]], [[0.2]]]),
        ("$OMEGA (0.1)x2", [[[0.1]], [[0.1]]]),
        ("$OMEGA BLOCK(2)\n 0.1\n 0.01 0.2", [[[0.1, 0.01], [0.01, 0.2]]]),
        ("$OMEGA BLOCK(2) VALUES(0.1, 0.01)", [[[0.1, 0.01], [0.01, 0.1]]]),
        ("$OMEGA BLOCK(2) SD CORR 0.3 0.5 0.4", [[[0.09, 0.06], [0.06, 0.16]]]),
        ("$OMEGA BLOCK(2) CHOLESKY 0.3 0.1 0.4", [[[0.09, 0.03], [0.03, 0.17]]]),
        ("$OMEGA BLOCK(1) 0.1\n$OMEGA BLOCK(1) SAME(2)", [[[0.1]], [[0.1]], [[0.1]]]),
        ("$OMEGA BLOCK(1) 0.1\n$OMEGA BLOCK SAME", [[[0.1]], [[0.1]]]),
    ],
)
def test_matrices(tmp_path, text, matrices):
    found = read_blocks(stream(tmp_path, text + "\n"), "OMEGA")
    assert len(found) == len(matrices)
    for block, matrix in zip(found, matrices, strict=True):
        np.testing.assert_allclose(block.matrix, matrix, atol=1e-15)
    assert [block.first for block in found] == np.cumsum([1, *(len(m) for m in matrices)])[:-1].tolist()


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("$EST METHOD=0", "nlme.FO()"),
        ("$EST", "nlme.FO()"),
        ("$ESTIMATION METHOD=1", "nlme.FOCE()"),
        ("$ESTIM METHOD=CONDITIONAL INTER", "nlme.FOCEI()"),
        ("$EST METH=COND LAPLACIAN INTER", "nlme.Laplace()"),
        ("$EST METHOD=SAEM INTER LAPLACE", "nlme.SAEM()"),
        ("$EST METHOD=0\n$EST METHOD=1 INTER", "nlme.FOCEI()"),
        ("$EST METHOD=1 INTER\n$EST MAXEVAL=0", "nlme.FOCEI()"),
        ("$EST METHOD=SAEM\n$EST METHOD=IMP EONLY=1", "nlme.SAEM()"),
        ("$EST METHOD=1 INTER\n$EST METHOD=BAYES", "nlme.FOCEI()"),
    ],
)
def test_methods(tmp_path, text, method):
    assert read_method(stream(tmp_path, text + "\n"), []).method == method


def test_the_last_table_of_estimates_counts(tmp_path):
    file = tmp_path / "run.ext"
    file.write_text(
        "TABLE NO.     1: First Order\n ITERATION THETA1 SIGMA(1,1) OMEGA(1,1) OBJ\n 0 1.0 0.1 0.2 10\n"
        " -1000000000 1.5 0.1 0.2 9\n -1000000001 0.1 0.1 0.1 0\nTABLE NO.     2: FOCE\n"
        " ITERATION THETA1 SIGMA(1,1) OMEGA(1,1) OBJ\n -1000000000 2.0E+00 0.1 0.2 8\n"
    )
    assert read_estimates(file) == {"ITERATION": -1e9, "THETA1": 2.0, "SIGMA(1,1)": 0.1, "OMEGA(1,1)": 0.2, "OBJ": 8.0}


def test_priors_that_the_method_does_not_take_are_left_out_and_said():
    run = nlme.from_nonmem(STREAMS / "styles" / "several_methods.mod")
    assert run.method == nlme.FOCEI()
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).log_prior == 0.0
    assert any("NOPRIOR=1" in note for note in run.notes)
    assert any("5 $ESTIMATION" in note for note in run.notes)
    assert any("EXIT" in note for note in run.notes)
