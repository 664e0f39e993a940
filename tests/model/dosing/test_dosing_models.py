"""Models with doses inside the library: published objective values, messages, the Pyro program, predictions."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from support.integrals import by_quadrature

import nlme_torch as nlme
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.inference.mcmc.proposals import factor_of_precision
from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.model import Density
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.moving_doses import dose_times_move
from nlme_torch.model.density.probe import why_not_finite

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "dosing_ofv.json").read_text())
SHARED = Path(__file__).parents[4] / "shared" / "data"


def row(values):
    return torch.tensor([values], dtype=torch.float64)


def exact_ofv(density, values, nodes):
    """-2 log-likelihood without n log 2 pi, by adaptive quadrature."""
    log_joint = column_density(density.at(values))
    zero = torch.zeros(density.model.n_effects, 1, density.batch.n_subjects, dtype=torch.float64)
    mode = best_mode(conditional_modes(log_joint, zero))
    total = by_quadrature(log_joint, mode.effects, factor_of_precision(mode.precision), nodes).sum()
    return -2 * total.item() - density.batch.n_observations * math.log(2 * math.pi)


@pytest.mark.parametrize("model", [nlme.examples.Phenobarbital, nlme.examples.PhenobarbitalEquation])
def test_phenobarbital_has_its_exact_objective_value(model):
    point = REFERENCE["phenobarbital"]
    density = Density(model(), nlme.examples.phenobarbital().batch(), nlme.Tsit5(1e-8, 1e-10))
    values = parameter_values(density.model) | {
        "cl.typical": row(point["theta"][0]).log(),
        "v.typical": row(point["theta"][1]).log(),
        "asphyxia.unconstrained": row(point["theta"][2]),
        "sigma.unconstrained": 0.5 * row(point["sigma2"]).log(),
        "_covariances.individual.log_sd": 0.5 * row(point["omega_diag"]).log(),
    }
    assert exact_ofv(density, values, nodes=21) == pytest.approx(point["OFV"], abs=1e-5)


@pytest.mark.parametrize("model", [nlme.examples.WarfarinTransit, nlme.examples.WarfarinTransitEquation])
def test_warfarin_reaches_its_maximum_from_its_dosing_records(model):
    if not (SHARED / "warfarin.csv").exists():
        pytest.skip("warfarin.csv is distributed with nlmixr2data")
    point = REFERENCE["warfarin"]
    data = nlme.Dataset.from_csv(SHARED / "warfarin.csv", outputs={"PK": "cp"}, covariates=["wt"])
    assert (data.n_subjects, data.n_observations) == (32, 251)
    density = Density(model(), data.batch(), nlme.Tsit5(1e-8, 1e-10))
    values = parameter_values(density.model) | {
        **{f"{name}.typical": row(point[name]).log() for name in ("ktr", "v", "cl")},
        **{f"{name}.unconstrained": row(point[name]).log() for name in ("a", "b")},
        "_covariances.individual.log_sd": 0.5 * row(point["omega_diag"]).log(),
    }
    # the estimates are printed to four digits
    assert exact_ofv(density, values, nodes=9) == pytest.approx(point["OFV"], abs=0.1)


def test_warfarin_with_its_effect_evaluates():
    if not (SHARED / "warfarin.csv").exists():
        pytest.skip("warfarin.csv is distributed with nlmixr2data")
    data = nlme.Dataset.from_csv(SHARED / "warfarin.csv", outputs={"PK": "cp", "PD": "pca"}, covariates=["wt"])
    density = Density(nlme.examples.WarfarinTurnover(), data.batch(), nlme.Tsit5())
    eta = torch.zeros(6, 1, 1, 32, dtype=torch.float64, requires_grad=True)
    value = density.at().log_joint(eta).sum()
    assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, eta)[0]).all()


class Tablet(nlme.Model):
    """Oral absorption with a lag and a modelled duration."""

    states = ("depot", "central")

    def __init__(self, lag=0.5):
        super().__init__()
        self.ka, self.cl, self.v = nlme.LogNormal(1.0), nlme.LogNormal(2.0), nlme.LogNormal(10.0)
        self.tlag, self.sigma = nlme.Normal(lag, omega=0.01), nlme.Positive(0.3)

    def dosing(self, p):
        return {"depot": nlme.Dosing(lag=p.tlag)}

    def dynamics(self, t, y, p):
        return -p.ka * y.depot, p.ka * y.depot - p.cl / p.v * y.central

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


def tablets(**columns):
    """Two subjects with one dose each and three observations; row 1 is the first dose."""
    frame = pd.DataFrame(
        {
            "ID": [1, 1, 1, 1, 2, 2, 2, 2],
            "TIME": [0.0, 0.2, 2.0, 6.0] * 2,
            "EVID": [1, 0, 0, 0] * 2,
            "AMT": [100.0, 0.0, 0.0, 0.0, 80.0, 0.0, 0.0, 0.0],
            "DV": [np.nan, 0.1, 4.0, 2.0, np.nan, -0.2, 3.0, 2.5],
        }
    )
    for name, value in columns.items():
        frame[name] = np.where(frame["EVID"] == 1, value, 0)
    return frame


def density_of(model, frame, **columns):
    return Density(model, nlme.Dataset.from_frame(frame, **columns).batch(), nlme.Tsit5())


def variant(**members):
    return type("Variant", (Tablet,), members)()


@pytest.mark.parametrize(
    ("members", "columns", "error", "message"),
    [
        ({}, {"CMT": 3}, nlme.DataError, "row 0: a dose enters compartment 3, but the model's states are 1 = depot"),
        ({}, {"RATE": -2}, nlme.DataError, "row 0 .*: RATE is -2, so the model has to give the dur.* for 'depot'"),
        ({}, {"RATE": -1}, nlme.DataError, "row 0 .*: RATE is -1, so the model has to give the rate"),
        ({"dosing": lambda self, p: {"gut": nlme.Dosing()}}, {}, nlme.ModelError, "dosing names 'gut', which is no"),
        ({"dosing": lambda self, p: {"depot": p.tlag}}, {}, nlme.ModelError, "must give nlme.Dosing.* for 'depot'"),
        ({"dosing": lambda self, p: nlme.Dosing()}, {}, nlme.ModelError, "dosing must return a dict of state name"),
        (
            {"dosing": lambda self, p: {"depot": nlme.Dosing(lag=torch.ones(3))}}, {}, nlme.ModelError,
            "gives lag of 'depot' in shape",
        ),
        ({"dosing": lambda self: {}}, {}, nlme.ModelError, "dosing must take 1 arguments beside self"),
    ],
)  # fmt: skip
def test_mistakes_are_named(members, columns, error, message):
    with pytest.raises(error, match=message):
        density_of(variant(**members), tablets(**columns))


def test_compartments_must_be_those_of_the_model():
    members = {"dynamics": nlme.Model.dynamics, "states": ("central", "depot")}
    oral = lambda self, p: nlme.compartments.OneCompartment(p.cl, p.v, p.ka)  # noqa: E731
    with pytest.raises(nlme.ModelError, match="returns a OneCompartment of the states depot, central, but"):
        density_of(variant(compartments=oral, **members), tablets())
    with pytest.raises(nlme.ModelError, match="must return one of nlme.compartments"):
        density_of(variant(compartments=lambda self, p: p.cl, **members), tablets())
    changing = {"individual": lambda self, p, cov: {"cl": p.cl * cov.WT}, "compartments": oral}
    frame = tablets().assign(WT=[1.0, 2.0, 1.0, 1.0] * 2)
    with pytest.raises(nlme.ModelError, match="a covariate moves in straight lines; write dynamics"):
        density_of(variant(**changing, dynamics=nlme.Model.dynamics), frame, time_varying={"WT": "linear"})


def reason(density, eta):
    conditional = density.at()
    value = conditional.log_joint(eta)
    bad = (~torch.isfinite(value)).nonzero()
    return value, [why_not_finite(conditional, eta, 0, int(place[-1])) for place in bad]


def test_a_subject_whose_doses_cannot_be_given_fails_alone():
    density = density_of(Tablet(), tablets())
    eta = torch.zeros(4, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros_like(eta)
    shift[3, 0, 0, 1] = -0.7
    value, why = reason(density, eta + shift)
    assert torch.isfinite(value[0, 0, 0]) and value[0, 0, 1] == -math.inf
    assert len(why) == 1 and why[0].startswith("the lag of 'depot' that dosing gives is negative or")
    gradient = torch.autograd.grad(value[0, 0, 0], eta)[0]
    assert torch.isfinite(gradient).all() and gradient[..., 0].abs().max() > 0


@pytest.mark.parametrize(
    ("members", "columns", "message"),
    [
        (
            {"dosing": lambda self, p: {"depot": nlme.Dosing(duration=812.0)}}, {"SS": 1, "II": 8.0, "RATE": -2},
            "a steady-state infusion lasts longer than 100 intervals",
        ),
        (
            {"dynamics": lambda self, t, y, p: (-p.ka * y.depot, p.ka * y.depot)}, {"SS": 1, "II": 8.0},
            "reaches no steady state, however often it is repeated",
        ),
        (
            {"dosing": lambda self, p: {"depot": nlme.Dosing(bioavailability=-p.tlag)}}, {},
            "bioavailability of 'depot' that dosing gives is negative or not finite",
        ),
        (
            {"dosing": lambda self, p: {"depot": nlme.Dosing(duration=0 * p.tlag)}}, {"RATE": -2},
            "duration of 'depot' that dosing gives is not positive or not finite",
        ),
    ],
)  # fmt: skip
def test_doses_without_a_meaning_say_why(members, columns, message):
    density = density_of(variant(**members), tablets(**columns))
    eta = torch.zeros(4, 1, 1, 2, dtype=torch.float64)
    value, why = reason(density, eta)
    assert (value == -math.inf).all() and all(message in text for text in why) and len(why) == 2


def test_no_extra_records_without_lags_and_infusions():
    density = density_of(variant(dosing=lambda self, p: {"depot": nlme.Dosing(bioavailability=0.5)}), tablets())
    assert density._plan.extras is None
    eta = torch.zeros(4, 1, 1, 2, dtype=torch.float64)
    conditional = density.at()
    line = conditional.trajectory(conditional.individual(eta), eta).timeline
    assert line.position is None and line.times is density._plan.times and line.events.rates is None


def test_an_unmoved_dose_is_not_seen_by_rows_before_it():
    frame = pd.DataFrame({"ID": 1, "TIME": 1.0, "EVID": [0, 1, 0], "AMT": [0.0, 5.0, 0.0], "DV": [1.0, np.nan, 1.0]})
    for lag, expected in ((0.0, [0.0, 5.0, 5.0]), (1e-300, [0.0, 5.0, 5.0])):
        density = density_of(variant(dosing=lambda self, p, lag=lag: {"depot": nlme.Dosing(lag=lag + 0 * p.ka)}), frame)
        eta = torch.zeros(4, 1, 1, 1, dtype=torch.float64)
        conditional = density.at()
        states = conditional.solution(conditional.individual(eta), eta).states
        assert states[:, 0].flatten().tolist() == expected


@pytest.mark.parametrize("time_varying", [False, True])
def test_the_pyro_program_has_the_same_joint(time_varying):
    members = {"individual": lambda self, p, cov: {"ka": p.ka * cov.WT}}
    frame = tablets(RATE=40.0, SS=[2, 0, 0, 0] * 2, II=12.0).assign(WT=[1.0, 2.0, 1.0, 0.5] * 2)
    data = nlme.Dataset.from_frame(frame, time_varying=["WT"]) if time_varying else nlme.Dataset.from_frame(frame)
    model = variant(**members) if time_varying else Tablet()
    solver = nlme.Tsit5(1e-6, 1e-8)
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(0)
        trace = poutine.trace(model.program(data, solver)).get_trace()
        eta = trace.nodes["eta_individual"]["value"].mT[:, None, None]
        expected = Density(model, data.batch(), solver).at().log_joint(eta).sum()
        torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-12, atol=1e-10)


def test_predictions_leave_dose_rows_out_and_follow_new_times():
    data, times = nlme.Dataset.from_frame(tablets()), np.array([0.3, 1.0, 30.0])
    modes = torch.zeros(4, 2, dtype=torch.float64)
    table = prediction_table(density_of(Tablet(), tablets()), data, modes)
    assert table["row"].tolist() == [1, 2, 3, 5, 6, 7] and np.isfinite(table["PRED"]).all()
    longer = data.with_times(times)
    table = prediction_table(Density(Tablet(), longer.batch(), nlme.Tsit5()), longer, modes)
    new = table[table["DV"].isna()]
    age = times - 0.5
    curve = (np.exp(-0.2 * age) - np.exp(-age)) / 0.8 * (age > 0) / 10.0
    for subject, amount in ((1, 100.0), (2, 80.0)):
        np.testing.assert_allclose(new.loc[new["id"] == subject, "PRED"], amount * curve, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_lag_is_estimated():
    design = nlme.Dataset.from_regimen(nlme.Regimen(100.0), np.linspace(0.25, 12.0, 12), subjects=30)
    truth = Tablet(lag=0.8)
    conditional = Density(truth, design.batch(), nlme.Tsit5()).at()
    with torch.no_grad():
        observed = conditional.observe(conditional.sample(1, torch.Generator().manual_seed(1)))[0]["DV"].mean[:, 0, 0]
    noise = 0.3 * torch.randn(observed.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    frame, batch = design.frame, design.batch()
    seen = batch.rows >= 0
    values = np.full(len(frame), np.nan)
    values[batch.rows[seen]] = (observed + noise)[seen].numpy()
    frame["DV"] = np.where(frame["EVID"] == 1, np.nan, values)
    frame["EVID"] = (frame["EVID"] == 1).astype(int)
    data = nlme.Dataset.from_frame(frame.drop(columns=["MDV"], errors="ignore"))
    fit = nlme.fit(Tablet(lag=0.3), data, nlme.SAEM(), seed=1, progress=False)
    assert abs(fit.parameters.estimate["tlag"] - 0.8) < 0.1
    assert len(fit.predict([3.3])) == 30


def test_a_regimen_is_simulated():
    regimen = nlme.Regimen(100.0, compartment="depot", every=12.0, additional=3) + nlme.Regimen(
        50.0, time=6.0, compartment="central", duration=2.0
    )
    design = nlme.Dataset.from_regimen(regimen, [1.0, 7.0, 40.0], subjects=2)
    density = Density(Tablet(), design.batch(), nlme.Tsit5(1e-8, 1e-10))
    eta = torch.zeros(4, 1, 1, 2, dtype=torch.float64)
    mean = density.at().observe(eta)[0]["DV"].mean[:, 0, 0, 0]
    k = 0.2

    def oral(age):
        return 100.0 / (1 - k) * (math.exp(-k * age) - math.exp(-age)) if age > 0 else 0.0

    def infused(age):
        return 25.0 / k * (1 - math.exp(-k * min(age, 2.0))) * math.exp(-k * max(age - 2.0, 0.0)) if age > 0 else 0.0

    looks = torch.isin(density.batch.rows[:, 0], torch.as_tensor(np.flatnonzero(design.prediction_rows)))
    expected = [(sum(oral(t - 0.5 - 12 * n) for n in range(4)) + infused(t - 6)) / 10 for t in (1.0, 7.0, 40.0)]
    np.testing.assert_allclose(mean[looks].numpy(), expected, rtol=1e-6)


def test_the_summary_speaks_of_doses_and_changing_covariates():
    frame = tablets(RATE=-2, SS=1, II=12.0).assign(WT=[1.0, 2.0, 1.0, 1.0] * 2)
    text = str(Tablet().summary(nlme.Dataset.from_frame(frame, time_varying=["WT"])))
    assert "doses: 2 modelled duration, 2 at steady state; 0 resets" in text
    assert "covariates: WT (changes, locf)" in text
    assert "(compartments in closed form)" in str(nlme.examples.Phenobarbital().summary())


class Baseline(nlme.Model):
    """An amount that begins at a baseline, which depends on a covariate and on the occasion, and is eliminated."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.base, self.sigma = nlme.LogNormal(20.0, occasions=nlme.Occasions(2)), nlme.Positive(1.0)
        self.k = nlme.Positive(0.1)

    def initial(self, p):
        return (p.baseline,)

    def individual(self, p, cov):
        return {"baseline": p.base * cov.F}

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.sigma)}


class BaselineEquation(Baseline):
    def dynamics(self, t, y, p):
        return (-p.k * y.central,)


class BaselineClosedForm(Baseline):
    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.k, 1.0)


@pytest.mark.parametrize("model", [BaselineEquation, BaselineClosedForm])
@pytest.mark.parametrize(
    ("code", "columns", "share", "dosed"),
    [(3, {}, 1, 0.0), (4, {"AMT": 7.0}, 1, 7.0), (4, {"AMT": 7.0, "SS": 1, "II": 4.0}, 0, 7 / (1 - math.exp(-0.4)))],
)
def test_a_reset_begins_with_the_initial_states_of_its_own_record(model, code, columns, share, dosed):
    """Covariate and occasion change at the reset: from there 3 x 20 x exp(eta), not 20."""
    blank = {"EVID": 0, "AMT": 0.0, "DV": 1.0, "SS": 0, "II": 0.0}
    rows = [
        blank | {"TIME": 0.0, "F": 1.0, "OCC": 1},
        blank | {"TIME": 1.0, "F": 1.0, "OCC": 1, "EVID": 1, "AMT": 5.0, "DV": np.nan},
        blank | {"TIME": 2.0, "F": 3.0, "OCC": 2, "EVID": code, "DV": np.nan} | columns,
        blank | {"TIME": 2.0, "F": 3.0, "OCC": 2},
        blank | {"TIME": 9.0, "F": 3.0, "OCC": 2},
    ]
    data = nlme.Dataset.from_frame(pd.DataFrame(rows).assign(ID=1), occasion="OCC", time_varying=["F"])
    density = Density(model(), data.batch(), nlme.Auto(rtol=1e-8))
    eta = torch.zeros(density.model.n_effects, 1, 1, 1, dtype=torch.float64)
    eta[-1] = 0.3  # the second occasion's
    eta.requires_grad_()
    observed, _ = density.at().observe(eta)
    found = observed["DV"].mean[density.batch.outcomes["DV"].mask[:, 0]][:, 0, 0, 0]
    # a steady state replaces what the reset restores
    restart, left = share * 60.0 * math.exp(0.3), math.exp(-0.7)
    expected = [20.0, restart + dosed, (restart + dosed) * left]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0.0)
    (slope,) = torch.autograd.grad(found[-1], eta)
    assert slope[-1].item() == pytest.approx(restart * left, rel=1e-5, abs=1e-9)


def test_a_steady_state_of_nothing_is_refused():
    with pytest.raises(nlme.DataError, match="SS.*AMT"):
        density_of(Tablet(), tablets(SS=1, II=8.0, AMT=0.0))


@pytest.mark.parametrize(
    ("members", "columns", "expected"),
    [
        ({}, {}, True),
        ({"dosing": lambda self, p: {"depot": nlme.Dosing(lag=0.5)}}, {}, False),
        ({"dosing": lambda self, p: {"depot": nlme.Dosing(bioavailability=p.tlag)}}, {}, False),
        ({"dosing": lambda self, p: {"depot": nlme.Dosing(bioavailability=p.tlag)}}, {"RATE": 40.0}, True),
        ({"dosing": lambda self, p: {"depot": nlme.Dosing(bioavailability=p.tlag)}}, {"DUR": 2.0}, False),
        ({"dosing": lambda self, p: {"depot": nlme.Dosing(duration=p.tlag)}}, {"RATE": -2}, True),
        ({"dosing": lambda self, p: {"central": nlme.Dosing(lag=p.tlag)}}, {}, False),
    ],
)
def test_whether_dose_times_move_with_parameters(members, columns, expected):
    assert dose_times_move(density_of(variant(**members), tablets(**columns))) is expected


class Matrix(nlme.Model):
    """Absorption by its matrix, of parameters without random effects; the scale has one."""

    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.ka, self.k, self.v = nlme.Positive(1.0), nlme.Positive(0.2), nlme.LogNormal(10.0)

    def compartments(self, p):
        rows = [torch.stack([-p.ka, 0 * p.ka]), torch.stack([p.ka, -p.k])]
        return nlme.compartments.LinearSystem(torch.stack(rows), self.states)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, 1.0)}


def test_a_matrix_that_all_subjects_share():
    density = density_of(Matrix(), tablets())
    observed, solved = density.at().observe(torch.zeros(1, 1, 1, 2, dtype=torch.float64))
    expected = 10.0 / 0.8 * (math.exp(-0.4) - math.exp(-2.0))
    assert solved.all() and observed["DV"].mean[2, 0, 0, 0].item() == pytest.approx(expected, rel=1e-12)


def test_a_dose_of_nothing_changes_nothing():
    frame = nlme.examples.phenobarbital().subset([1, 2]).to_frame()
    nothing = frame.iloc[[0]].assign(AMT=0.0)
    longer = pd.concat([frame.iloc[:1], nothing, frame.iloc[1:]], ignore_index=True)
    values = [
        nlme.ofv(nlme.examples.Phenobarbital(), nlme.Dataset.from_frame(table), nlme.FO()).ofv
        for table in (longer, frame)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-10)
