"""A saved fit is of use without the data that it was made from, and says where these are needed."""

import copy
import pickle

import pandas as pd
import pytest
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme


@pytest.fixture(scope="module")
def data():
    return lines_data(simulate_lines(subjects=8, seed=9)[0])


@pytest.fixture(scope="module")
def fit(data):
    return nlme.fit(Line(), data, nlme.FOCEI(), progress=False).with_standard_errors(kind="R")


@pytest.fixture(scope="module")
def alone(fit, tmp_path_factory):
    return nlme.load(fit.save(tmp_path_factory.mktemp("fits") / "run"), Line())


def test_it_prints_and_holds_its_tables(fit, alone):
    assert str(alone) == str(fit)
    pd.testing.assert_frame_equal(alone.parameters, fit.parameters)
    for name in ("eta", "eta_mean", "eta_sd"):
        pd.testing.assert_frame_equal(getattr(alone, name), getattr(fit, name))
    assert (alone.aic, alone.bic, alone.ofv) == (fit.aic, fit.bic, fit.ofv)
    assert "8 subjects" in repr(alone.data)


def test_it_individualises_and_simulates(fit, alone, data):
    new = data.subset(data.subjects[:2])
    pd.testing.assert_frame_equal(alone.individualise(new).predictions, fit.individualise(new).predictions)
    assert nlme.simulate(alone.model, new, seed=3) == nlme.simulate(fit.model, new, seed=3)
    assert nlme.held_out(alone, new).minus2ll == nlme.held_out(fit, new).minus2ll


def test_what_needs_the_data_says_so(alone, data, tmp_path):
    for use in (
        lambda: alone.predictions,
        lambda: alone.predict([1.0]),
        lambda: nlme.standard_errors(alone),
        lambda: alone.save(tmp_path / "again"),
        lambda: nlme.case_bootstrap(alone, samples=2, progress=False),
    ):
        with pytest.raises(nlme.FitError, match=r"needs the data of the fit .*nlme\.load\('.*run', model, data\)"):
            use()
    with pytest.raises(nlme.DataError, match="a data set is needed and a DataFrame was given"):
        nlme.load(alone.data._folder, Line(), data.frame)


def test_it_can_be_copied(alone):
    assert str(copy.deepcopy(alone)) == str(alone) == str(pickle.loads(pickle.dumps(alone)))
