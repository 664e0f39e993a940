"""Fits by FO, FOCE, FOCEI, Laplace and quadrature against published optima."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from support.foce_models import REFERENCE, Theoph, TheophEquation, theoph_params
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign

OPTIMA = REFERENCE["nlmixr2_theo_sd_MLE"]
ROWS = {
    "FO": nlme.FO(),
    "FOCE=FOCEI": nlme.FOCEI(),
    "LAPLACEI": nlme.Laplace(),
    "EXACT(AGQ9)": nlme.Quadrature(nodes=9),
}


@pytest.mark.parametrize("row", ROWS)
def test_theophylline_diagonal_optima(row, theophylline):
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, ROWS[row], progress=False)
    estimates = fit.parameters["estimate"]
    typical = [math.log(estimates[name]) for name in ("ka", "cl", "v")]
    omega = fit.omega.to_numpy().diagonal()
    found = [fit.ofv, *typical, estimates["sigma"], *omega]
    assert found[0] == pytest.approx(OPTIMA[row][0], abs=1e-4)
    assert found[1:] == pytest.approx(OPTIMA[row][1:], rel=1e-3)
    assert fit.log_likelihood.method == ROWS[row].name
    assert "converged" in fit.termination and "gradient norm" in fit.termination and fit.warnings == ()
    assert fit.trace["ofv"].iloc[-1] == pytest.approx(fit.ofv, abs=1e-6)


def test_foce_without_interaction_is_the_same_for_additive_error(theophylline):
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, nlme.FOCE(), progress=False)
    assert fit.ofv == pytest.approx(OPTIMA["FOCE=FOCEI"][0], abs=1e-4)


BEST = {"FO": (nlme.FO(), 57.321065), "FOCEI": (nlme.FOCEI(), 92.830870), "LAPLACEI": (nlme.Laplace(), 93.558704)}


@pytest.mark.parametrize("name", BEST)
def test_theophylline_full_omega_from_the_published_start(name, theophylline):
    method, bound = BEST[name]
    model = Theoph()
    assign(model, values_from_natural(model, theoph_params(REFERENCE["theoph_nmw"]["points"][0])))
    fit = nlme.fit(model, theophylline, method, progress=False)
    assert fit.ofv <= bound
    point = next(p for p in REFERENCE["theoph_nmw"]["points"] if p["name"] == f"{name} final")
    printed = theoph_params(point)
    for parameter in ("ka", "v", "k", "s1", "s2"):
        assert fit.parameters.loc[parameter, "estimate"] == pytest.approx(printed[parameter], rel=2e-3), parameter


def test_an_equation_reaches_the_same_optimum(theophylline):
    model = TheophEquation()
    assign(model, values_from_natural(model, theoph_params(REFERENCE["theoph_nmw"]["points"][3])))
    fit = nlme.fit(model, theophylline, nlme.FOCEI(), progress=False)
    assert fit.ofv == pytest.approx(92.830869, abs=1e-4)


def test_phenobarbital_with_repeated_doses():
    reference = REFERENCE["pheno_real"]
    data, model = nlme.examples.phenobarbital(), nlme.examples.Phenobarbital()
    names = {"FO": nlme.FO(), "FOCE": nlme.FOCE(), "FOCEI": nlme.FOCEI(), "LAPLACEI": nlme.Laplace()}
    for point in reference["points"]:
        cl, v, asphyxia = point["theta"]
        params = {"cl": cl, "v": v, "asphyxia": asphyxia, "sigma": math.sqrt(point["sigma2"])}
        params |= {"omega_cl": point["omega_diag"][0], "omega_v": point["omega_diag"][1]}
        for name, expected in {**point["NONMEM"], **point["ours"]}.items():
            if name in names:
                value = nlme.ofv(model, data, names[name], params, solver=nlme.Tsit5(rtol=1e-9, atol=1e-10))
                assert value.ofv == pytest.approx(expected, abs=1e-5), name
                assert value.subjects["ofv"].sum() == pytest.approx(value.ofv, rel=1e-12)
    fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
    assert fit.ofv <= 586.27606
    assert 100 * fit.shrinkage.to_numpy() == pytest.approx(reference["eta_shrink_sd_pct"], rel=1e-3)
    sigma = fit.parameters.loc["sigma", "estimate"]
    for kind, key in (("sandwich", "se_sandwich_NONMEM"), ("R", "se_Rinv")):
        errors = nlme.standard_errors(fit, kind=kind).table["se"]
        found = [errors[name] for name in ("cl", "v", "asphyxia", "omega_cl", "omega_v")]
        assert found == pytest.approx([*reference[key]["theta"], *reference[key]["omega"]], rel=0.01), kind
        assert 2 * sigma * errors["sigma"] == pytest.approx(reference[key]["sigma2"], rel=0.01)


def test_priors_make_it_maximum_a_posteriori():
    """One effect with known variance and a normal prior of its mean: the posterior mode in closed form."""
    frame, design = simulate_lines(subjects=6)
    data = lines_data(frame)
    prior = dist.Normal(torch.tensor(5.0, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64))
    model = Line(
        a=nlme.Normal(1.0, omega=nlme.Fixed(0.5), prior=prior),
        b=nlme.Normal(-0.6, nlme.Shift("x"), omega=nlme.Fixed(0.15), fixed=True),
        sigma=nlme.Positive(0.4, fixed=True),
    )
    with torch.no_grad():
        model.b.covariates["x"].beta.requires_grad_(False)
    fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
    coefficient = float(model.b.covariates["x"].beta)
    omega = torch.diag(torch.tensor([0.5, 0.15], dtype=torch.float64)).numpy()
    step = 1e-3
    curve = [design.minus2ll([a, -0.6, coefficient], omega, 0.4) / 2 for a in (-step, 0.0, step)]
    information = (curve[0] - 2 * curve[1] + curve[2]) / step**2
    best = (curve[0] - curve[2]) / (2 * step) / information
    posterior = (information * best + 5.0 / 0.04) / (information + 1 / 0.04)
    assert fit.parameters.loc["a", "estimate"] == pytest.approx(posterior, rel=1e-5)
    assert fit.parameters.loc["b", "estimate"] == -0.6 and fit.parameters.loc["sigma", "estimate"] == pytest.approx(0.4)
    assert "penalised" in fit.trace and "not a likelihood" in str(fit)
    assert fit.minus2ll == pytest.approx(design.minus2ll([posterior, -0.6, coefficient], omega, 0.4), abs=1e-5)


class Interrupting(nlme.Model):
    """Presses Ctrl-C after some evaluations."""

    def __init__(self):
        super().__init__()
        self.a, self.sigma = nlme.Normal(0.0, omega=1.0), nlme.Positive(3.0)
        self._calls = [0]

    def predict(self, t, p, cov):
        self._calls[0] += 1
        if self._calls[0] == 60:
            raise KeyboardInterrupt
        return p.a + 0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def test_an_interrupted_fit_returns_what_it_has():
    data = lines_data(simulate_lines(subjects=6)[0])
    fit = nlme.fit(Interrupting(), data, nlme.FOCE(), progress=False)
    assert "interrupted" in fit.termination and any("interrupted" in message for message in fit.warnings)
    assert math.isfinite(fit.ofv) and len(fit.trace) > 0


def test_a_search_that_runs_out_of_iterations_says_so(theophylline):
    method = nlme.FOCEI(optimiser=nlme.BFGS(iterations=2))
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, method, progress=False)
    assert "did not converge" in fit.termination and "all iterations were used" in fit.warnings[0]


def test_other_optimisers_and_several_starts(theophylline):
    model = nlme.examples.TheophyllineClosedForm()
    limited = nlme.fit(model, theophylline, nlme.FO(optimiser=nlme.LBFGS()), progress=False)
    assert limited.ofv == pytest.approx(OPTIMA["FO"][0], abs=1e-4)
    adam = nlme.fit(model, theophylline, nlme.FO(optimiser=nlme.Adam(300, 0.3)), progress=False)
    assert adam.ofv == pytest.approx(OPTIMA["FO"][0], abs=1e-2)
    several = nlme.fit(model, theophylline, nlme.FO(starts=3), progress=False)
    assert several.ofv == pytest.approx(OPTIMA["FO"][0], abs=1e-4) and "best of 3 starts" in several.termination


def test_everything_fixed_is_refused(theophylline):
    model = nlme.examples.TheophyllineClosedForm().requires_grad_(False)
    with pytest.raises(nlme.FitError, match="every parameter is fixed"):
        nlme.fit(model, theophylline, nlme.FOCEI())


def test_an_impossible_start_names_the_subject(theophylline):
    class Breaks(nlme.examples.TheophyllineClosedForm):
        def predict(self, t, p, cov):
            return super().predict(t, p, cov) + 0 * torch.log(cov.Wt - 55.0)

    with pytest.raises(nlme.NLMEError, match="subject"):
        nlme.fit(Breaks(), theophylline, nlme.FOCEI())


@pytest.mark.slow
def test_a_network_with_latent_inputs_is_fitted_through_an_equation():
    """Laplace and FOCEI fits of a hybrid model go downhill together and stop at a small gradient."""

    class Hybrid(nlme.Model):
        states = ("amount",)

        def __init__(self):
            super().__init__()
            self.z = nlme.Latent(1)
            self.rate = nlme.MLP(2, 3, 1, prior=nlme.L2(0.1))
            self.sigma = nlme.Positive(0.3)

        def initial(self, p):
            return (5.0,)

        def dynamics(self, t, y, p):
            return (-torch.nn.functional.softplus(p.rate(y.amount / 5, p.z)) * y.amount,)

        def observe(self, t, y, p):
            return {"conc": dist.Normal(y.amount, p.sigma)}

    frame = nlme.examples.theophylline().frame
    noise = 0.2 * np.random.default_rng(0).normal(size=len(frame))
    frame["conc"] = 5 * np.exp(-(0.1 + 0.01 * frame["Subject"]) * frame["Time"]) + noise
    data = nlme.Dataset.from_frame(frame, id="Subject", time="Time", outputs="conc")
    model = Hybrid().initialise(1)
    fit = nlme.fit(model, data, nlme.FOCEI(optimiser=nlme.BFGS(iterations=25), mode_starts=3), progress=False)
    before = nlme.ofv(model, data, nlme.FOCEI(mode_starts=3))
    after = nlme.ofv(fit.model, data, nlme.FOCEI(mode_starts=3))
    assert after.penalised < before.penalised - 50
    assert after.minus2ll == pytest.approx(fit.minus2ll, abs=1e-3)
    exact = nlme.ofv(fit.model, data, nlme.Quadrature(nodes=25, mode_starts=3))
    assert exact.minus2ll == pytest.approx(nlme.ofv(fit.model, data, nlme.Laplace(mode_starts=3)).minus2ll, abs=2.0)


def test_a_model_without_a_derivative_is_refused_before_the_search(theophylline):
    class Kinked(nlme.examples.TheophyllineClosedForm):
        def predict(self, t, p, cov):
            return super().predict(t, p, cov) + 1e-3 * (p.ka - p.ka.detach()).sqrt()

    with pytest.raises(nlme.FitError, match="sqrt"):
        nlme.fit(Kinked(), theophylline, nlme.FOCEI(), progress=False)


def test_a_root_of_nothing_has_no_slope(theophylline):
    class Nothing(nlme.examples.TheophyllineClosedForm):
        def predict(self, t, p, cov):
            return super().predict(t, p, cov) + 1e-3 * (p.ka - p.ka).abs().sqrt()

    assert nlme.fit(Nothing(), theophylline, nlme.FOCEI(), progress=False).ofv == pytest.approx(116.803, abs=1e-3)


def test_a_parameter_without_influence_is_named(theophylline):
    class Idle(nlme.examples.TheophyllineClosedForm):
        def __init__(self):
            super().__init__()
            self.idle = nlme.Positive(1.0)

    fit = nlme.fit(Idle(), theophylline, nlme.FO(), progress=False)
    assert any("does not depend on idle" in message for message in fit.warnings)
    assert fit.status is nlme.Status.STALLED and not fit.converged  # idle stands where it began
    assert fit.ofv == pytest.approx(OPTIMA["FO"][0], abs=1e-4)


def test_covariate_effects_that_the_data_cannot_tell_apart_are_refused(theophylline):
    class Same(nlme.examples.TheophyllineClosedForm):
        def __init__(self):
            nlme.Model.__init__(self)
            self.ka, self.v = nlme.LogNormal(1.5), nlme.LogNormal(32.0)
            self.cl = nlme.LogNormal(2.7, nlme.Power("same", ref=50.0), omega=0.1)
            self.sigma = nlme.Positive(1.0)

    data = nlme.Dataset.from_frame(
        theophylline.frame.assign(same=70.0), id="Subject", time="Time", dv="conc", covariates=["Wt", "Dose", "same"]
    )
    with pytest.raises(nlme.ModelError, match="'cl'.*cannot be told apart.*same"):
        nlme.fit(Same(), data, nlme.FOCEI(), progress=False)
