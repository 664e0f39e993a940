"""Standard errors against the information matrix of a linear model, and directions that are not identified."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.information.observed import Information, invert
from nlme_torch.inference.marginal import quadrature
from nlme_torch.inference.uncertainty import standard_errors as computed


def numerical_hessian(function, point, step=1e-3):
    size = len(point)
    matrix = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            total = 0.0
            for si, sj in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                moved = np.array(point, dtype=float)
                moved[i] += si * step
                moved[j] += sj * step
                total += si * sj * function(moved)
            matrix[i, j] = total / (4 * step**2)
    return matrix


def test_hessian_standard_errors_of_a_linear_model():
    frame, design = simulate_lines(subjects=30)
    fit = nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False)

    def half_minus2ll(point):
        return 0.5 * design.minus2ll(point[:3], np.diag(point[4:]), point[3])

    errors = nlme.standard_errors(fit, kind="R")
    names = ["a", "b", "b_x", "sigma", "omega_a", "omega_b"]
    point = errors.table.loc[names, "estimate"].to_numpy()
    expected = np.sqrt(np.diag(np.linalg.inv(numerical_hessian(half_minus2ll, point))))
    assert errors.table.loc[names, "se"].to_numpy() == pytest.approx(expected, rel=2e-3)
    low, high = errors.table.loc["sigma", ["lower", "upper"]]
    assert 0 < low < point[3] < high
    assert high / point[3] == pytest.approx(point[3] / low)  # symmetric on the log scale
    assert errors.correlation.to_numpy().diagonal() == pytest.approx(np.ones(len(names)))
    assert errors.warnings == () and errors.condition_number < 100


def test_score_standard_errors_sum_over_subjects():
    frame, design = simulate_lines(subjects=30)
    fit = nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False)
    names = ["a", "b", "b_x", "sigma", "omega_a", "omega_b"]
    errors = nlme.standard_errors(fit, kind="S")
    point = errors.table.loc[names, "estimate"].to_numpy()
    scores, step = np.zeros((30, 6)), 1e-5
    for k in range(6):
        shift = np.zeros(6)
        shift[k] = step
        ahead, behind = (
            np.array(design.log_marginal(p[:3], np.diag(p[4:]), p[3])) for p in (point + shift, point - shift)
        )
        scores[:, k] = (ahead - behind) / (2 * step)
    information = scores.T @ scores
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    assert errors.table.loc[names, "se"].to_numpy() == pytest.approx(expected, rel=2e-3)


def test_a_direction_that_the_data_do_not_identify_is_named():
    class Twice(Line):
        def __init__(self):
            super().__init__()
            self.first, self.second = nlme.Real(0.3), nlme.Real(0.7)

        def predict(self, t, p, cov):
            return super().predict(t, p, cov) + (p.first + p.second) * t**2

    frame, _ = simulate_lines(subjects=12)
    fit = nlme.fit(Twice(), lines_data(frame), nlme.FOCEI(), progress=False)
    errors = nlme.standard_errors(fit, kind="R")
    assert len(errors.warnings) == 1
    assert "first" in errors.warnings[0] and "second" in errors.warnings[0] and "sigma" not in errors.warnings[0]
    assert errors.table["se"].isna().all()


def test_network_weights_get_no_standard_error(theophylline):
    class WithNetwork(nlme.examples.TheophyllineClosedForm):
        def __init__(self):
            super().__init__()
            self.size = nlme.MLP(1, 2, 1, prior=nlme.L2(5.0))

        def individual(self, p, cov):
            return {"dose": cov.Wt * cov.Dose, "v": p.v * (0.1 * p.size(cov.Wt / 70)).exp()}

    fit = nlme.fit(WithNetwork(), theophylline, nlme.FOCEI(mode_starts=1), progress=False)
    errors = nlme.standard_errors(fit, nlme.FOCEI(mode_starts=1), kind="R")
    assert list(errors.table.index) == ["ka", "cl", "v", "sigma", "omega_ka", "omega_cl", "omega_v"]


class Quadratic(Line):
    """A line plus a quadratic term whose coefficient is made of two parameters."""

    def __init__(self, coefficient):
        super().__init__()
        self.first, self.second = nlme.Real(1.3), nlme.Real(0.7)
        self._coefficient = coefficient

    def predict(self, t, p, cov):
        return super().predict(t, p, cov) + self._coefficient(p.first, p.second, t) * t**2


def curved_fit(coefficient):
    frame, _ = simulate_lines(subjects=20)
    data = lines_data(frame.assign(DV=frame["DV"] + 0.9 * frame["TIME"] ** 2))
    return nlme.fit(Quadratic(coefficient), data, nlme.FOCEI(), progress=False)


@pytest.fixture(scope="module")
def product():
    return curved_fit(lambda first, second, t: first * second)


@pytest.fixture(scope="module")
def nearly_a_sum():
    return curved_fit(lambda first, second, t: first + second * (1 + 1e-3 * t))


@pytest.mark.parametrize("kind", ["sandwich", "R", "S"])
def test_a_product_of_parameters_is_a_flat_direction(product, kind):
    """Differences see a small curvature along the hyperbola; only the scores show that it is zero."""
    errors = nlme.standard_errors(product, kind=kind)
    assert errors.table["se"].isna().all() and errors.condition_number == np.inf
    (message,) = errors.warnings
    assert "do not identify" in message and "sigma" not in message and "omega" not in message
    first, second = (product.model.get_parameter(f"{name}.unconstrained").item() for name in ("first", "second"))
    tangent = np.array([first, -second]) / max(abs(first), abs(second))  # of first * second = constant
    named = re.search(r"direction (.*) \(estimation", message)[1].split()
    assert named[1::2] == ["first", "second"]
    assert abs(np.array(named[::2], dtype=float) @ tangent) == pytest.approx(tangent @ tangent, abs=0.02)


@pytest.mark.parametrize("kind", ["sandwich", "R", "S"])
def test_a_nearly_flat_direction_is_named_and_keeps_its_standard_error(nearly_a_sum, kind):
    errors = nlme.standard_errors(nearly_a_sum, kind=kind)
    assert errors.table.loc[["first", "second"], "se"].min() > 10 and errors.table["se"].notna().all()
    (message,) = errors.warnings
    assert "hardly identify" in message and "first" in message and "second" in message and "sigma" not in message


def test_a_sandwich_without_scores_in_a_direction_has_no_standard_error_of_zero():
    """R sees a curvature in both directions, but no subject pulls along (1, -1)."""
    hessian = torch.eye(2, dtype=torch.float64)
    both = Information(hessian, torch.ones(2, 2, dtype=torch.float64), subjects=10)
    found = invert(both, "sandwich", ["first", "second"])
    assert found.covariance.isnan().all() and "S is singular" in found.warnings[0]
    assert sorted(re.search(r"direction (.*) \(est", found.warnings[0])[1].split()) == ["+1", "-1", "first", "second"]
    assert torch.equal(invert(both, "R", ["first", "second"]).covariance, hessian)


def test_estimates_off_the_maximum_are_called_so():
    """With a variance that is far too small the log-likelihood is convex in its logarithm."""
    frame, _ = simulate_lines(subjects=20)
    data = lines_data(frame)
    fit = nlme.fit(Line(), data, nlme.FOCEI(), progress=False)
    low = replace(fit, model=Line(a=nlme.Normal(2.0, omega=1e-5), b=nlme.Normal(-0.6, nlme.Shift("x"), omega=0.1)))
    errors = nlme.standard_errors(low, kind="R")
    assert errors.table["se"].isna().all()
    assert any("no maximum" in message and "omega_a" in message for message in errors.warnings)


def test_the_default_method_is_the_one_that_the_fit_maximised():
    frame, _ = simulate_lines(subjects=12)
    for method in (nlme.FO(), nlme.Laplace(), nlme.Quadrature(nodes=3)):
        fit = nlme.fit(Line(), lines_data(frame), method, progress=False)
        assert nlme.standard_errors(fit).method == method.name


@pytest.fixture(scope="module")
def small():
    frame, _ = simulate_lines(subjects=12)
    return nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False)


def errors_by_rule(monkeypatch, by_nodes):
    """Every standard error on the estimation scale is one number for each number of nodes."""

    def information(approximation, scalars, searches, step):
        one = torch.eye(len(scalars.names), dtype=torch.float64)
        return Information(one / by_nodes[approximation.nodes] ** 2, one, subjects=12)

    monkeypatch.setattr(computed, "information_at_held_nodes", information)


def test_nodes_are_added_until_standard_errors_stay(small, monkeypatch):
    """From 3 to 5 nodes they move by 30 %, from 5 to 7 by 2.5 %, from 7 to 9 by 1.5 %: 7 suffice."""
    errors_by_rule(monkeypatch, {3: 1.0, 5: 1.3, 7: 1.3 * 1.025, 9: 1.3 * 1.025 / 1.015, 11: 7.0})
    found = nlme.standard_errors(small, nlme.Quadrature(nodes=3), kind="R")
    assert found.method == "Quadrature(nodes=7)" and found.warnings == ()
    assert found.table.loc["a", "se"] == pytest.approx(1.3 * 1.025)
    assert found.correlation.to_numpy() == pytest.approx(np.eye(6), abs=1e-12)


def test_nodes_that_cannot_be_raised_are_said(small, monkeypatch):
    """5 nodes for each of two effects are 25."""
    errors_by_rule(monkeypatch, {3: 1.0, 5: 0.9})
    monkeypatch.setattr(quadrature, "LARGEST_GRID", 30)
    found = nlme.standard_errors(small, nlme.Quadrature(nodes=3), kind="R")
    assert found.method == "Quadrature(nodes=5)" and found.table.loc["a", "se"] == pytest.approx(0.9)
    assert "may move a standard error by 10 %" in found.warnings[0]
    monkeypatch.setattr(quadrature, "LARGEST_GRID", 10)
    assert "by an unknown amount" in nlme.standard_errors(small, nlme.Quadrature(nodes=3), kind="R").warnings[0]


def test_a_correlation_is_a_covariance_over_both_standard_errors(small, monkeypatch):
    """With R⁻¹ = s s' (0.7 I + 0.3) every correlation is 0.3; a and b are natural, b is negative."""
    size = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.05, 0.6], dtype=torch.float64)
    inverse = torch.outer(size, size) * (0.7 * torch.eye(6, dtype=torch.float64) + 0.3)
    both = Information(torch.linalg.inv(inverse), torch.eye(6, dtype=torch.float64), subjects=12)
    monkeypatch.setattr(computed, "information_at_held_nodes", lambda *others: both)
    errors = nlme.standard_errors(small, nlme.Quadrature(nodes=3), kind="R")
    assert errors.correlation.to_numpy() == pytest.approx(0.7 * np.eye(6) + 0.3, rel=1e-9)
    assert errors.condition_number == pytest.approx((0.7 + 6 * 0.3) / 0.7) and errors.level == 0.95
    table = errors.table.loc[["a", "b"]]
    assert (table["rse_percent"] / (100 * table["se"] / table["estimate"].abs())).tolist() == pytest.approx([1.0, 1.0])
    assert table["estimate"].iloc[1] < 0 < table["rse_percent"].iloc[1]
