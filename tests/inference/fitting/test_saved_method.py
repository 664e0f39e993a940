"""The method of a fit is an object with all its settings, in memory and on disk."""

import json
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.estimates.estimation import UnrepeatableMethod
from nlme_torch.inference.fitting.saved_files import Entries
from nlme_torch.inference.fitting.saved_method import KINDS, packed_method, unpacked_method

METHODS = (
    nlme.FOCEI(optimiser=nlme.LBFGS(iterations=7), mode_starts=3, starts=2, rescue=None),
    nlme.Laplace(optimiser=nlme.TrustRegion(), rescue=nlme.Rescue(chains=3)),
    nlme.FO(),
    nlme.FOCE(optimiser=nlme.BFGS(iterations=3)),
    nlme.Quadrature(nodes="auto"),
    nlme.Quadrature(nodes=5),
    nlme.Pooled(steps=3, hold_out=0.2),
    nlme.SAEM(
        schedule=nlme.StepSchedule(burn_in=2, exploration=4, smoothing=3, power=0.8),
        chains=3,
        starts=4,
        race=nlme.Race(),
        warm_up=nlme.Pooled(5),
        moves=nlme.Moves(prior=1),
        certification=nlme.Certification(),
    ),
    nlme.Staged(nlme.Pooled(steps=2), nlme.SAEM(chains=2), nlme.FOCEI(starts=2)),
)


@pytest.fixture(scope="module")
def fit():
    data = lines_data(simulate_lines(subjects=8, seed=6)[0])
    return nlme.fit(Line(), data, METHODS[0], progress=False)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_setting_of_a_method_comes_back(method, tmp_path):
    stored = json.loads(json.dumps({"method": str(method), "method_settings": packed_method(method)}))
    assert unpacked_method(Entries(tmp_path, "fit.json", stored)) == method


def test_every_public_method_and_optimiser_can_be_saved():
    public = {name for name in dir(nlme) if hasattr(getattr(nlme, name), "estimate")}
    public |= {name for name in dir(nlme) if hasattr(getattr(nlme, name), "minimise")}
    assert {"FOCEI", "SAEM", "Staged", "BFGS"} <= public <= set(KINDS)


def test_a_saved_fit_has_the_method_that_it_was_made_by(fit, tmp_path):
    assert fit.method is METHODS[0]
    again = nlme.load(fit.save(tmp_path / "one"), Line(), fit.data)
    assert again.method == fit.method and str(again) == str(fit)


def test_a_fit_saved_by_an_earlier_version_says_what_it_does_not_know(fit, tmp_path):
    """Such a fit has the text alone, from which no settings can be had."""
    folder = fit.save(tmp_path / "one")
    record = json.loads((folder / "fit.json").read_text())
    del record["method_settings"], record["checksums"]
    (folder / "fit.json").write_text(json.dumps(record))
    again = nlme.load(folder, Line(), fit.data)
    assert again.method == UnrepeatableMethod("FOCEI") and str(again.method) == "FOCEI"
    assert nlme.standard_errors(again).table.equals(nlme.standard_errors(replace(fit, method=nlme.FOCEI())).table)
    for action in (
        lambda: nlme.case_bootstrap(again, samples=2, progress=False),
        lambda: nlme.fit(Line(), fit.data, again.method, progress=False),
    ):
        with pytest.raises(nlme.FitError, match="FOCEI.*nothing but this text is known.*give the method"):
            action()


@dataclass(frozen=True)
class Own:
    """A user's method."""

    steps: int = 2

    def estimate(self, density, generator, progress):
        return nlme.Pooled(self.steps).estimate(density, generator, progress)


def test_a_users_own_method_is_kept_and_saved_by_its_text(fit, tmp_path):
    own = nlme.fit(Line(), fit.data, Own(), progress=False)
    assert own.method == Own()
    assert packed_method(nlme.Staged(Own(), nlme.FOCEI())) is None
    again = nlme.load(own.save(tmp_path / "own"), Line(), fit.data)
    assert again.method == UnrepeatableMethod(str(Own()))
    pd.testing.assert_frame_equal(again.predictions, own.predictions)
