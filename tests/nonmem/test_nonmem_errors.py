"""What cannot be converted is an error that names file and line; nothing is dropped in silence."""

import pandas as pd
import pytest

import nlme_torch as nlme
from nlme_torch.__main__ import main
from tests.support.control_streams import written

STREAM = """$PROBLEM bolus
$INPUT ID TIME AMT DV WT
$DATA d.csv IGNORE=@
$SUBROUTINES ADVAN1 TRANS2
$PK
CL = THETA(1)*EXP(ETA(1))
V = THETA(2)
S1 = V
$ERROR
Y = F*(1 + EPS(1))
$THETA (0, 1) (0, 10)
$OMEGA 0.1
$SIGMA 0.04
$ESTIMATION METHOD=1 INTER
"""
DATA = "ID,TIME,AMT,DV,WT\n1,0,100,.,70\n1,2,0,8,70\n2,0,100,.,60\n2,3,0,6,62\n"


def convert(folder, old="", new="", data=DATA):
    (folder / "d.csv").write_text(data)
    assert old in STREAM
    return nlme.from_nonmem(written(folder, STREAM.replace(old, new, 1) if old else STREAM))


def test_the_stream_itself_is_right(tmp_path):
    run = convert(tmp_path)
    assert run.data.n_observations == 2
    assert run.notes == ()
    assert "2 subjects" in repr(run)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("$DATA d.csv", "$DATA absent.csv", 3, "no data file absent.csv"),
        ("$ESTIMATION", "$ESTIMATOR", 14, "ESTIMATOR is no record"),
        ("S1 = V", '"  S1 = V', 8, "verbatim"),
        ("S1 = V", "S1 = ERFC(V)", 8, "ERFC is no function"),
        ("S1 = V", "S1 = V +", 8, "ends too early"),
        ("S1 = V", "S1 = (V", 8, "not closed"),
        ("S1 = V", "S1 : V", 8, "neither an assignment"),
        ("S1 = V", "S1 = THETA(3)", 8, r"THETA\(3\) is out of range"),
        ("S1 = V", "S1 = V*EXP(ETA(2))", 8, r"ETA\(2\) is out of range: \$OMEGA gives 1"),
        ("S1 = V", "S1 = THETA(KA)", 8, "neither a number nor a label"),
        ("EPS(1)", "EPS(2)", 10, r"EPS\(2\) is out of range"),
        ("Y = F*(1 + EPS(1))", "Y = F", 9, "no residual error"),
        ("Y = F*(1 + EPS(1))", "IPRED = F", 9, "Y is given no value"),
        ("Y = F*(1 + EPS(1))", "Y = AF*(1 + EPS(1))", 10, "AF is used where it was given no value"),
        ("V = THETA(2)", "IF (WT.GT.65) V = THETA(2)", 7, "V is used where it was given no value"),
        ("V = THETA(2)", "IF (V.EQ.0) V = THETA(2)", 7, "V is used where it was given no value"),
        ("DV WT", "DV MDV", 9, "no row of the data is an observation"),
        ("V = THETA(2)", "V = V + THETA(2)", 7, "V is used where it was given no value"),
        ("V = THETA(2)", "IF (WT.GT.65) THEN\nV = THETA(2)", 7, "no ENDIF"),
        ("V = THETA(2)", "CALL RANDOM(V)", 7, "CALL cannot be converted"),
        ("V = THETA(2)\nS1 = V", "W = THETA(2)", 5, "gives V no value, which ADVAN1 TRANS2 needs"),
        ("S1 = V", "S1 = V\nV = A(1)", 9, r"A\(1\) in \$PK"),
        ("ADVAN1 TRANS2", "ADVAN9", 4, "ADVAN9 cannot be converted"),
        ("ADVAN1 TRANS2", "ADVAN1 TRANS4", 4, "TRANS4 cannot be converted"),
        ("ADVAN1 TRANS2", "ADVAN6", 4, "needs .MODEL"),
        ("$OMEGA 0.1", "$MIX", 12, "mixtures of subpopulations do not exist"),
        ("$OMEGA 0.1", "$LEVEL", 12, "groups of subjects"),
        ("$OMEGA 0.1", "$OMEGA BLOCK(2) 0.1 0.2 0.1", 12, "not positive definite"),
        ("$OMEGA 0.1", "$OMEGA BLOCK(2) 0.1 0.2", 12, "needs 3 values and has 2"),
        ("$OMEGA 0.1", "$OMEGA BLOCK(1) SAME", 12, "no block before it"),
        ("$OMEGA 0.1", "$OMEGA 0", 12, "is not positive"),
        ("(0, 1) (0, 10)", "(0, 1) (0, 10, 5)", 11, "not between the bounds"),
        ("(0, 1) (0, 10)", "(0, 1) ten", 11, "no initial value"),
        ("AMT DV WT", "AMT DV WT WT", 2, "two columns are called WT"),
        ("AMT DV WT", "AMT CONC WT", 2, "has no DV"),
        ("IGNORE=@", "IGNORE=@ IGNORE=(DOSE.EQ.1)", 3, "names DOSE"),
        ("METHOD=1", "METHOD=GUESS", 14, "METHOD=GUESS"),
        ("$SIGMA 0.04", "$SIGMA 0.04\n$PRIOR NWPRI\n$OMEGAP 0.1 FIX", 15, "inverse Wishart"),
    ],
)
def test_errors_name_file_and_line(tmp_path, old, new, line, message):
    with pytest.raises(nlme.NLMEError, match=rf"run1\.mod, line {line}: .*{message}"):
        convert(tmp_path, old, new)


def test_absent_files(tmp_path):
    with pytest.raises(nlme.ModelError, match="no control stream"):
        nlme.from_nonmem(tmp_path / "absent.mod")
    (tmp_path / "d.csv").write_text(DATA)
    with pytest.raises(nlme.ModelError, match="no file of estimates"):
        nlme.from_nonmem(written(tmp_path, STREAM), tmp_path / "absent.ext")


def test_a_cell_of_text_is_an_error_of_the_data(tmp_path):
    with pytest.raises(nlme.DataError, match=r"d\.csv, line 3: 'high' in column DV"):
        convert(tmp_path, data=DATA.replace(",8,", ",high,"))


def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "d.csv").write_text(DATA)
    assert main(["convert", str(written(tmp_path, STREAM))]) == 0
    assert "class Run1(nlme.Model):" in capsys.readouterr().out
    assert main(["convert", str(written(tmp_path, STREAM.replace("(ETA(1))", "(ETA(7))")))]) == 1
    assert "line 6: ETA(7) is out of range" in capsys.readouterr().err


def test_empty_covariates_are_zero_and_a_value_kept_by_code_is_a_column(tmp_path):
    """Of a dot NONMEM makes 0; IF (AMT.GT.0) keeps the last dose."""
    data = DATA.replace("2,3,0,6,62", "2,3,0,6,.")
    run = convert(tmp_path, "V = THETA(2)", "IF (AMT.GT.0) DOSE = AMT\nV = THETA(2)*DOSE/100*(1 + 0*WT)", data)
    frame = run.data.to_frame()
    assert frame["WT"].tolist() == [70.0, 70.0, 60.0, 0.0]
    assert frame["DOSE"].tolist() == [100.0] * 4


def test_a_table_in_place_of_the_file(tmp_path):
    table = pd.DataFrame({"ID": [1.0, 1.0], "TIME": [0.0, 1.0], "AMT": [100.0, 0.0], "DV": [0.0, 8.0], "WT": 70.0})
    run = nlme.from_nonmem(written(tmp_path, STREAM), data=table)
    assert run.data.n_subjects == 1
    with pytest.raises(nlme.DataError, match="the table has no column AMT"):
        nlme.from_nonmem(written(tmp_path, STREAM), data=table.drop(columns=["AMT"]))


def test_names_that_python_or_the_library_keep_for_themselves(tmp_path):
    """A variable may be called as a compartment is, as a word of Python, or as an attribute of a model."""
    variables = "LAMBDA = THETA(2)\nCENTRAL = LAMBDA*EXP(0*ETA(1))\nSTATES = CENTRAL\nV = STATES\nP = V\nS1 = P"
    run = convert(tmp_path, "V = THETA(2)\nS1 = V", variables)
    plain = convert(tmp_path)
    expected = nlme.ofv(plain.model, plain.data, nlme.FOCEI()).ofv
    assert nlme.ofv(run.model, run.data, nlme.FOCEI()).ofv == pytest.approx(expected, abs=1e-9)


def test_a_file_that_cannot_be_written_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "d.csv").write_text(DATA)
    stream = written(tmp_path, STREAM)
    assert main(["convert", str(stream), "--output", str(tmp_path / "absent" / "run.py")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("cannot be written: No such file or directory.")
