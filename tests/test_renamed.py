"""Old names work and say what they are now; fits that were saved with them load."""

import json
import sys

import pytest
import torch
from support.fitted_models import quick_fit

import nlme_torch as nlme


def test_old_names_work_and_say_what_they_are_now():
    for module in (nlme, nlme.solve):
        with pytest.warns(DeprecationWarning, match="Adaptive is TorchDiffEq now"):
            assert module.Adaptive is nlme.TorchDiffEq
    with pytest.warns(DeprecationWarning, match="Power is PowerError now; nlme_torch.Power is the effect"):
        error = nlme.observation.Power(torch.tensor(4.0), torch.tensor(0.1), torch.tensor(0.5))
    assert isinstance(error, nlme.observation.PowerError) and issubclass(nlme.Power, object)
    assert "Adaptive" not in dir(nlme) and "Power" in dir(nlme)
    with pytest.raises(AttributeError, match="no attribute 'Adaptiv'"):
        nlme.solve.Adaptiv  # noqa: B018


def test_data_sets_are_examples():
    for name in ("theophylline", "phenobarbital"):
        with pytest.warns(DeprecationWarning, match=f"data.{name} is nlme_torch.examples.{name} now"):
            assert getattr(nlme.data, name) is getattr(nlme.examples, name)
    with pytest.warns(DeprecationWarning, match="data.examples is nlme_torch.examples now"):
        assert nlme.data.examples.theophylline().n_subjects == 12


def test_what_were_likelihoods_of_their_own_are_the_methods_now():
    with pytest.warns(DeprecationWarning, match=r"LaplaceLikelihood is Laplace\(mode_starts=\) now"):
        assert nlme.LaplaceLikelihood(3) == nlme.LaplaceLikelihood(starts=3) == nlme.Laplace(mode_starts=3)
    with pytest.warns(DeprecationWarning, match=r"QuadratureLikelihood is Quadrature\(nodes=\) now"):
        method = nlme.QuadratureLikelihood(7)
    assert method == nlme.Quadrature(nodes=7, mode_starts=1)
    fit = quick_fit()
    value = nlme.loglik(fit, method)
    assert value.method == "Quadrature(nodes=7)"
    assert value.minus2ll == pytest.approx(nlme.ofv(fit.model, fit.data, nlme.Quadrature(nodes=7)).minus2ll, abs=1e-8)


def test_a_fit_that_was_saved_with_the_old_name_of_its_solver_loads(tmp_path):
    fit = quick_fit()
    folder = fit.save(tmp_path / "one")
    record = json.loads((folder / "fit.json").read_text())
    record["solver"] = {"name": "Adaptive", "settings": {"rtol": 1e-5}}
    del record["checksums"]
    (folder / "fit.json").write_text(json.dumps(record))
    assert nlme.load(folder, fit.model, fit.data).solver == nlme.TorchDiffEq(rtol=1e-5)
    assert "nlme_torch.solve.methods.torch_diff_eq" in sys.modules
