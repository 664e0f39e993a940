"""The tables of a fit and the fit as text."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Everything, Line, everything_data, number

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.fitting.tables import effect_table, omega_table, parameter_table


def table_of(model, **shrinkage):
    return parameter_table(model, pd.Series({label: shrinkage.get(label, 0.25) for label in model.effect_labels}))


def test_one_row_per_structural_parameter_on_its_natural_scale():
    table = table_of(Everything(), eta_cl=0.4)
    assert table.index.tolist() == [
        "ka",
        "cl",
        "cl_WT",
        "v",
        "v_WT",
        "f",
        "kout",
        "power",
        "shift",
        "dose",
        "sigma_pk",
        "sigma_pd",
    ]
    expected = [1.2, 0.3, 0.75, 3.0, 0.01, 0.7, 0.5, 0.8, 0.1, 10.0, 0.3, 0.2]
    assert table.estimate.tolist() == pytest.approx(expected, rel=1e-12)
    assert table.fixed.tolist() == [name == "dose" for name in table.index]
    # log-normal: CV% = 100 sqrt(exp(omega) - 1), exact, not 100 sqrt(omega)
    assert table.bsv_cv_percent["ka"] == pytest.approx(100 * math.sqrt(math.exp(0.2) - 1), rel=1e-12)
    assert math.isnan(table.bsv_cv_percent["v"]) and table.bsv_sd["v"] == pytest.approx(math.sqrt(0.2), rel=1e-12)
    assert math.isnan(table.bsv_cv_percent["f"]) and table.bsv_sd["f"] == pytest.approx(math.sqrt(0.1), rel=1e-12)
    assert table.shrinkage_percent["cl"] == pytest.approx(40.0)
    for name in ("cl_WT", "kout", "sigma_pk"):
        assert table.loc[name, ["bsv_cv_percent", "bsv_sd", "shrinkage_percent"]].isna().all()


def test_fixed_typical_values_and_fixed_coefficients_are_marked():
    model = Line(
        a=nlme.Normal(1.0, fixed=True),
        b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.75, fixed=True)),
        sigma=nlme.Positive(1.0, fixed=True),
    )
    assert table_of(model).fixed.to_dict() == {"a": True, "b": False, "b_x": True, "sigma": True}


def test_omega_is_one_matrix_over_all_blocks():
    model = Everything()
    with torch.no_grad():
        model.get_parameter("_covariances.disposition.factor")[1] = 0.15
    table = omega_table(model)
    assert table.index.tolist() == list(model.effect_labels) == table.columns.tolist()
    factor = np.array([[math.sqrt(0.1), 0.0], [0.15, math.sqrt(0.2)]])
    np.testing.assert_allclose(table.loc[["eta_cl", "eta_v"], ["eta_cl", "eta_v"]], factor @ factor.T, rtol=1e-12)
    assert table.loc["eta_ka", "eta_ka"] == pytest.approx(0.2) and table.loc["eta_f", "eta_f"] == pytest.approx(0.1)
    assert table.loc["z[1]", "z[1]"] == 1.0 and table.loc["loss.z[0]", "loss.z[0]"] == 1.0
    assert table.loc["uptake.b2[0]", "uptake.b2[0]"] == pytest.approx(0.05)
    assert table.loc["eta_ka", "eta_cl"] == 0.0


def test_effects_have_one_row_per_subject():
    model = Line()
    table = effect_table(model, ["b", "a"], number([[1.0, 2.0], [3.0, 4.0]]))
    assert table.index.tolist() == ["b", "a"] and table.index.name == "id"
    assert table.loc["a"].to_dict() == {"eta_a": 2.0, "eta_b": 4.0}


@pytest.fixture(scope="module")
def line_fit():
    method = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=1, exploration=2, smoothing=1))
    data = lines_data(simulate_lines(subjects=5)[0])
    return nlme.fit(Line(), data, method, progress=False, likelihood=nlme.Laplace(mode_starts=1))


@pytest.fixture(scope="module")
def everything_fit(line_fit):
    """The text of a fit needs the fit's parts, not the hours that such a fit would take."""
    model, data = Everything(), everything_data()
    modes = 0.1 * torch.randn(model.n_effects, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    identity = torch.eye(model.n_effects, dtype=DOUBLE)[:, :, None].expand(-1, -1, 5)
    effects = EffectEstimates(modes, identity, modes.new_zeros(5), modes, identity, modes[:, None])
    likelihood = replace(line_fit.log_likelihood, value=-70.5, n_observations=24)
    return replace(
        line_fit,
        model=model,
        data=data,
        effects=effects,
        solver=nlme.RK4(3, compile=False),
        log_likelihood=likelihood,
        warnings=("eta_f has collapsed",),
    )


def test_the_text_says_everything_once(everything_fit):
    fit = everything_fit
    text = str(fit)
    assert text == repr(fit) and fit._repr_html_() == f"<pre>{text}</pre>"
    assert "Everything fitted to 5 subjects, 24 observations" in text
    assert f"-2LL {fit.minus2ll:.3f}" in text and f"OFV {fit.ofv:.3f}" in text and "by Laplace" in text
    assert f"AIC {fit.aic:.2f}  BIC {fit.bic:.2f}  (60 parameters)" in text
    assert "penalised objective" in text and "(not a likelihood)" in text
    assert "10 (fixed)" in text and "sd 0." in text
    for name in ("drive", "uptake", "loss"):
        assert f"network {name}: " in text
    assert "subject-specific; sd of its 7 effects" in text and "mean shrinkage" in text
    assert "correlations of cl, v:" in text
    assert fit.termination in text and "smoothing iterations" in text
    assert all(f"warning: {message}" in text for message in fit.warnings)


def test_weights_have_no_row_of_their_own(everything_fit):
    """Permuting hidden units changes nothing but the weights: no standard error, no table row."""
    assert not any("W1" in name for name in everything_fit.parameters.index)


def test_a_plain_fit_has_a_plain_text(line_fit):
    text = str(replace(line_fit, warnings=()))
    assert "penalised" not in text and "network" not in text and "correlations" not in text and "warning" not in text
    header = next(line for line in text.splitlines() if "Est." in line)
    assert header.split() == ["Est.", "BSV(CV%)", "Shrink(SD)%"]


def test_shrinkage_of_a_fixed_omega_is_against_it():
    frame, _ = simulate_lines(subjects=6)
    method = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=1, exploration=2, smoothing=1))
    fit = nlme.fit(
        Line(a=nlme.Normal(1.0, omega=nlme.Fixed(2.0))),
        lines_data(frame),
        method,
        progress=False,
        likelihood=nlme.Laplace(),
    )
    expected = 1 - fit.eta.eta_a.std(ddof=1) / math.sqrt(2.0)
    assert fit.shrinkage.eta_a == pytest.approx(expected, rel=1e-10)
    assert fit.parameters.shrinkage_percent["a"] == pytest.approx(100 * expected, rel=1e-10)


def test_standard_errors_stand_beside_the_estimates():
    frame, _ = simulate_lines(subjects=12)
    model = Line(b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.3, fixed=True), omega=1.0))
    plain = nlme.fit(model, lines_data(frame), nlme.FOCEI(), progress=False)
    fit = plain.with_standard_errors(kind="R", level=0.9)
    errors = nlme.standard_errors(plain, kind="R", level=0.9).table
    assert plain.uncertainty is None and "se" not in plain.parameters and " SE " not in str(plain)
    columns = ["estimate", "se", "rse_percent", "lower", "upper"]
    assert fit.parameters.columns.tolist()[:5] == columns and "shrinkage_percent" in fit.parameters
    pd.testing.assert_frame_equal(fit.parameters.loc[["a", "b", "sigma"], columns], errors.loc[["a", "b", "sigma"]])
    assert fit.parameters.loc["b_x", columns[1:]].isna().all()  # fixed
    text = str(fit)
    row = next(line for line in text.splitlines() if line.startswith("omega_a"))
    assert f"{errors.loc['omega_a', 'se']:.3g}" in row and f"{errors.loc['omega_a', 'upper']:.4g}" in row
    assert f"condition number {fit.uncertainty.condition_number:.3g}; 90 % confidence limits" in text
    lowest = fit.uncertainty.correlation.iloc[-1].map("{:.2f}".format).tolist()
    assert next(line for line in reversed(text.splitlines()) if line.startswith("omega_b")).split()[1:] == lowest


def test_what_the_data_do_not_identify_is_said_in_the_text_of_the_fit():
    class Twice(Line):
        def __init__(self):
            super().__init__()
            self.first, self.second = nlme.Real(0.3), nlme.Real(0.7)

        def predict(self, t, p, cov):
            return super().predict(t, p, cov) + (p.first + p.second) * t**2

    frame, _ = simulate_lines(subjects=12)
    fit = nlme.fit(Twice(), lines_data(frame), nlme.FOCEI(), progress=False).with_standard_errors(kind="R")
    assert "warning: R is singular: the data do not identify the direction" in str(fit)
    assert "correlations of the estimates" not in str(fit) and fit.parameters["se"].isna().all()
