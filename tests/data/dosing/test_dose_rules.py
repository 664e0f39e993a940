"""What is said of one row's dosing columns, written out by hand for values below one, at one and above."""

import math

import numpy as np
import pytest

from nlme_torch.data.dosing.dose_rules import check_doses
from nlme_torch.data.table.columns import Columns

DOSE, OTHER, RESET, RESET_DOSE = 1, 2, 3, 4
BOLUS = {"amt": 100.0}
ENDLESS = {"amt": 0.0, "rate": 0.5, "ss": 1.0}
NO_AMOUNT = {"amt": math.nan}


def said(evid, **given):
    """Names of the rules that a row breaks."""
    parts = ("amt", "rate", "dur", "ii", "addl", "ss")
    cells = {part: np.array([given.get(part, 0.0)]) for part in parts}
    known = ~np.isnan(cells["amt"])
    cells["amt"] = np.nan_to_num(cells["amt"])
    problems = []
    columns = Columns({part: part.upper() for part in (*parts, "evid")}, None, None, {}, (), {}, None)
    check_doses(cells, known, np.array([evid]), columns, problems)
    return {problem.rule for problem in problems if problem.severity == "error"}, {
        problem.rule for problem in problems if problem.severity != "error"
    }


@pytest.mark.parametrize("evid", [DOSE, RESET_DOSE])
@pytest.mark.parametrize(
    "given, errors, warnings",
    [
        (BOLUS, set(), set()),
        ({"amt": 0.5}, set(), set()),
        ({"amt": -0.5}, {"negative AMT"}, set()),
        ({"amt": 0.0}, set(), {"zero dose"}),
        (NO_AMOUNT, {"dose without AMT"}, set()),
        (NO_AMOUNT | {"rate": 0.5}, {"RATE without AMT"}, set()),
        (NO_AMOUNT | {"dur": 0.5}, {"DUR without AMT"}, set()),
        (NO_AMOUNT | {"ii": 12.0, "ss": 1.0}, {"dose without AMT"}, set()),
        ({"amt": 0.0, "rate": 0.5}, {"RATE without AMT"}, set()),
        ({"amt": 0.0, "dur": 0.5}, {"DUR without AMT"}, set()),
        ({"amt": 0.0, "ss": 1.0, "ii": 12.0}, {"SS without AMT"}, set()),
        ({"amt": 0.0, "ss": 2.0, "ii": 0.5}, {"SS without AMT"}, set()),
        (BOLUS | {"rate": 0.5}, set(), set()),
        (BOLUS | {"rate": -1.0}, set(), set()),
        (BOLUS | {"rate": -2.0}, set(), set()),
        (BOLUS | {"rate": -0.5}, {"RATE"}, set()),
        (BOLUS | {"rate": -3.0}, {"RATE"}, set()),
        (BOLUS | {"dur": 0.5}, set(), set()),
        (BOLUS | {"dur": -0.5}, {"DUR"}, set()),
        (BOLUS | {"dur": 0.5, "rate": 0.5}, {"RATE and DUR"}, set()),
        (BOLUS | {"dur": 0.5, "rate": -2.0}, {"RATE and DUR"}, set()),
        (BOLUS | {"dur": -0.5, "rate": 0.5}, {"DUR"}, set()),
        (BOLUS | {"addl": 1.0, "ii": 0.5}, set(), set()),
        (BOLUS | {"addl": 0.5, "ii": 0.5}, {"ADDL"}, set()),
        (BOLUS | {"addl": -1.0, "ii": 0.5}, {"ADDL"}, set()),
        (BOLUS | {"addl": 1.0}, {"ADDL without II"}, set()),
        (BOLUS | {"addl": 0.5}, {"ADDL", "ADDL without II"}, set()),
        (BOLUS | {"addl": 1.0, "ii": -0.5}, {"II"}, set()),
        (BOLUS | {"ii": -0.5}, {"II"}, set()),
        (BOLUS | {"ii": 0.5}, set(), {"II without ADDL or SS"}),
        (BOLUS | {"ii": 1.0}, set(), {"II without ADDL or SS"}),
        (BOLUS | {"ss": 1.0, "ii": 0.5}, set(), set()),
        (BOLUS | {"ss": 2.0, "ii": 0.5}, set(), set()),
        (BOLUS | {"ss": 0.5, "ii": 0.5}, {"SS"}, set()),
        (BOLUS | {"ss": 3.0, "ii": 0.5}, {"SS"}, set()),
        (BOLUS | {"ss": 1.0}, {"SS without II"}, set()),
        (BOLUS | {"ss": 2.0}, {"SS without II"}, set()),
        (BOLUS | {"ss": 1.0, "rate": 0.5}, {"SS without II"}, set()),
        (ENDLESS, set(), set()),
        (ENDLESS | {"rate": -1.0}, set(), set()),
        (ENDLESS | {"rate": -2.0}, {"RATE without AMT", "SS without II"}, set()),
        (ENDLESS | {"ii": 0.5}, {"infusion without end"}, set()),
        (ENDLESS | {"addl": 1.0}, {"infusion without end", "ADDL without II"}, set()),
        (ENDLESS | {"addl": 1.0, "ii": 0.5}, {"infusion without end"}, set()),
        (ENDLESS | {"ss": 0.0}, {"RATE without AMT"}, set()),
        (NO_AMOUNT | {"rate": 0.5, "ss": 1.0}, set(), set()),
    ],
)
def test_a_dose(evid, given, errors, warnings):
    assert said(evid, **given) == (errors, warnings)


@pytest.mark.parametrize("evid", [0, OTHER, RESET])
@pytest.mark.parametrize(
    "given, errors",
    [
        ({}, set()),
        ({"amt": 0.5}, {"AMT on a row that is no dose"}),
        ({"amt": -0.5}, {"AMT on a row that is no dose"}),
        ({"amt": 0.5, "rate": 0.5, "dur": 0.0}, {"AMT on a row that is no dose"}),
        ({"rate": 0.5}, {"RATE without AMT"}),
        ({"rate": -1.0}, {"RATE without AMT"}),
        ({"dur": 0.5}, {"DUR without AMT"}),
        ({"dur": 0.5, "amt": 0.5}, {"AMT on a row that is no dose"}),
        ({"addl": 1.0}, {"ADDL on a row that is no dose"}),
        ({"addl": 0.5}, {"ADDL on a row that is no dose", "ADDL"}),
        ({"ss": 1.0}, {"SS on a row that is no dose"}),
        ({"ss": 0.5}, {"SS on a row that is no dose", "SS"}),
        ({"ii": 0.5}, set()),
    ],
)
def test_a_row_that_is_no_dose(evid, given, errors):
    assert said(evid, **given) == (errors, set())


def test_a_message_names_the_column_and_the_number():
    problems = []
    cells = {part: np.array([0.0, 0.0]) for part in ("amt", "rate", "dur", "ii", "addl", "ss")}
    cells["amt"] = np.array([10.0, -0.25])
    columns = Columns({"amt": "Dose", "evid": "EVID"}, None, None, {}, (), {}, None)
    check_doses(cells, np.array([True, True]), np.array([1, 1]), columns, problems)
    (problem,) = problems
    assert (problem.row, problem.column) == (1, "Dose") and "-0.25" in problem.message
