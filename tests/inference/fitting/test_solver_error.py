"""A fit says so when its solver's tolerance moves the likelihood."""

import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.fitting.solver_error import solver_warnings
from nlme_torch.model.density.density import Density
from nlme_torch.solve import choose_solver


def warnings(model, solver, data):
    density = Density(model, data.batch(), solver)
    return solver_warnings(density, torch.zeros(model.n_effects, density.batch.n_subjects, dtype=torch.float64))


@pytest.mark.parametrize(
    "solver",
    [nlme.RK4(1, compile=False), nlme.Tsit5(1.0, 100.0, compile=False), nlme.TorchDiffEq(rtol=1.0, atol=100.0)],
    ids=str,
)
def test_a_coarse_solver_is_named(solver, theophylline):
    (message,) = warnings(nlme.examples.TheophyllineClassical(), solver, theophylline)
    assert "the solver's error moves -2 log-likelihood by" in message
    stated = float(message.split(" by ")[1].split(" (")[0])
    exact = nlme.ofv(nlme.examples.TheophyllineClosedForm(), theophylline, nlme.Pooled()).ofv
    coarse = nlme.ofv(nlme.examples.TheophyllineClassical(), theophylline, nlme.Pooled(), solver=solver).ofv
    assert stated == pytest.approx(coarse - exact, rel=0.1)


def test_the_default_solver_and_closed_forms_are_silent(theophylline):
    assert warnings(nlme.examples.TheophyllineClassical(), nlme.Auto(), theophylline) == ()
    assert warnings(nlme.examples.TheophyllineClosedForm(), nlme.RK4(1), theophylline) == ()


def test_it_is_part_of_every_fit(theophylline):
    fit = nlme.fit(
        nlme.examples.TheophyllineClassical(), theophylline, nlme.Pooled(steps=2), solver=nlme.Tsit5(1.0, 100.0),
        progress=False,
    )  # fmt: skip
    assert any("solver's error" in message for message in fit.warnings)
    assert "solver's error" in str(fit)


def test_solvers_go_by_name(theophylline):
    model = nlme.examples.TheophyllineClassical()
    values = [nlme.ofv(model, theophylline, nlme.Pooled(), solver=name).ofv for name in ("auto", "tsit5", "rodas5p")]
    assert values == pytest.approx([values[0]] * 3, abs=1e-4)
    assert choose_solver(None) == choose_solver("auto") == nlme.Auto()
    own = nlme.Tsit5(1e-3)
    assert choose_solver(own) is own
    with pytest.raises(nlme.SolveError, match="no solver is called 'dop853'; use one of auto, tsit5"):
        nlme.ofv(model, theophylline, nlme.Pooled(), solver="dop853")
