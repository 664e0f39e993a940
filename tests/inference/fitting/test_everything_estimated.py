"""Everything estimated has a row; subjects have rows by occasion, and keep their effects under another regimen."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.small_models import Everything

import nlme_torch as nlme
from nlme_torch.inference.fitting.everything_estimated import everything_estimated


def shrinkage(model):
    return pd.Series({label: 0.25 for label in model.effect_labels})


def test_one_row_for_everything_that_has_a_value():
    model = Everything().with_values({"omega_cl": 0.1, "omega_v": 0.4, "omega_cl,v": 0.1})
    table = everything_estimated(model, shrinkage(model))
    kinds = table.groupby("kind", sort=False).apply(lambda rows: list(rows.index), include_groups=False)
    assert kinds["typical value"] == ["ka", "cl", "v", "f"]
    assert kinds["coefficient"] == ["cl_WT", "v_WT"]
    assert kinds["parameter"] == ["kout", "power", "shift", "dose", "sigma_pk", "sigma_pd"]
    assert kinds["variance"][:4] == ["omega_cl", "omega_v", "omega_ka", "omega_f"]
    assert kinds["covariance"] == ["omega_cl,v"]
    assert kinds["network"] == ["drive", "uptake", "loss"]
    assert table.loc["omega_cl,v", "correlation"] == pytest.approx(0.1 / math.sqrt(0.1 * 0.4))
    assert table.loc["omega_v", "bsv_sd"] == pytest.approx(math.sqrt(0.4))
    assert math.isnan(table.loc["omega_v", "bsv_cv_percent"])  # v is normal
    assert table.loc["omega_cl", "bsv_cv_percent"] == pytest.approx(100 * math.sqrt(math.expm1(0.1)))
    assert table.loc["omega_ka", "shrinkage_percent"] == 25.0
    assert table.loc["drive", "size"] == 3 * 2 + 2 + 2 + 1 and math.isnan(table.loc["drive", "estimate"])
    assert table.index[table["fixed"]].tolist() == ["dose", "omega_f"]
    assert table.index.is_unique


class Varying(nlme.Model):
    """A level of each subject that moves between occasions, with a latent effect on the slope."""

    def __init__(self):
        super().__init__()
        self.a = nlme.LogNormal(5.0, omega=0.1, occasions=nlme.Occasions(2, omega=0.05))
        self.z = nlme.Latent(1)
        self.slope, self.sigma = nlme.Real(0.2), nlme.Positive(0.2)

    def predict(self, t, p, cov):
        return p.a + p.slope * p.z * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def visits(subjects=12, seed=2):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(subjects):
        a, z = 5 * np.exp(rng.normal(0, 0.3)), rng.normal()
        for occasion in (1, 2)[: 1 + (i != 3)]:  # the fourth subject comes once
            level = a * np.exp(rng.normal(0, 0.2))
            for t in (0.0, 1.0, 2.0):
                dv = level + 0.2 * z * (t + 3 * occasion) + rng.normal(0, 0.2)
                rows.append({"ID": i, "TIME": t + 3 * occasion, "OCC": occasion, "DV": dv})
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.fixture(scope="module")
def fit():
    return nlme.fit(Varying(), visits(), nlme.FOCEI(), progress=False)


def test_variation_between_occasions_and_latents_is_shown(fit):
    assert list(fit.parameters.index) == ["a", "slope", "sigma", "omega_a", "omega_a_occasion"]
    row = fit.parameters.loc["omega_a_occasion"]
    assert row["kind"] == "variance between occasions" and not row["fixed"]
    assert row["estimate"] == pytest.approx(fit.omega.loc["eta_a_occasion1", "eta_a_occasion1"])
    cv = 100 * math.sqrt(math.expm1(row["estimate"]))
    header, line = (next(x for x in str(fit).splitlines() if x.strip().startswith(name)) for name in ("Est.", "a "))
    assert header.split() == ["Est.", "BSV(CV%)", "BOV(CV%)", "Shrink(SD)%"]
    assert f"{cv:.1f}" in line.split()
    assert f"latent z: 1 x N(0, 1), shrinkage {100 * fit.shrinkage['z']:.1f} %" in str(fit)


def test_a_row_per_subject_and_occasion(fit):
    table = fit.individual_parameters
    assert len(table) == 23 and table.index.names == ["id", "occasion"]
    for (subject, occasion), value in table["a"].items():
        effects = fit.eta.loc[subject]
        expected = fit.parameters.estimate["a"] * np.exp(effects["eta_a"] + effects[f"eta_a_occasion{occasion}"])
        assert value == pytest.approx(expected, rel=1e-10)
    assert (3, 2) not in table.index


def test_standard_errors_stand_in_every_row_that_is_estimated(fit):
    table = fit.with_standard_errors(kind="R").parameters
    errors = nlme.standard_errors(fit, kind="R").table
    for name in table.index:
        assert table.loc[name, "se"] == pytest.approx(errors.loc[name, "se"])


def test_a_patient_keeps_the_effects_that_the_samples_gave():
    data = nlme.examples.phenobarbital()
    model = nlme.examples.Phenobarbital()
    fit = nlme.fit(model, data, nlme.FO(optimiser=nlme.BFGS(iterations=2)), progress=False)
    patients = data.subset(data.subjects[:3])
    found = fit.individualise(patients)
    assert found.eta.shape == found.eta_sd.shape == (3, model.n_effects)
    density = fit.density.at()
    omega = density.covariance()[0].diagonal().sqrt()
    assert bool((torch.tensor(found.eta_sd.to_numpy()) < omega).all())  # samples narrow the distribution
    design = patients.with_regimen(nlme.Regimen(30.0, every=12.0, additional=3), [10.0, 40.0])
    table = found.predict(design)
    assert list(table["time"]) == [10.0, 40.0] * 3
    one = nlme.simulate(fit.model, design, seed=1, eta=found.modes)  # the same effects, with errors
    again = found.density.model
    assert again is fit.model and len(one.subjects) == 3
    assert not np.allclose(table["IPRED"], table["PRED"])
    # the effects are those of the samples: a closed form of one compartment at the individual parameters
    own = found.parameters
    for subject in patients.subjects:
        rows = table[table["id"] == subject]
        child, asphyxia = patients.covariates.loc[subject], fit.parameters.estimate["asphyxia"]
        cl = own.loc[subject, "cl"] * child["WT"]
        v = own.loc[subject, "v"] * child["WT"] * (1 + asphyxia * (child["APGR"] < 5))
        for time, value in zip(rows["time"], rows["IPRED"], strict=True):
            doses = [t for t in (0.0, 12.0, 24.0, 36.0) if t <= time]
            assert value == pytest.approx(sum(30.0 / v * np.exp(-cl / v * (time - t)) for t in doses), rel=1e-6)
    with pytest.raises(nlme.FitError, match="is none of these"):
        found.predict(data)


def test_a_patient_without_samples_comes_from_a_table_and_has_no_effects():
    frame = nlme.examples.phenobarbital().frame
    first = frame[frame["ID"] == frame["ID"].iloc[0]].assign(ID=1001, DV=np.nan, MDV=1)
    with_samples = frame[frame["ID"].isin(frame["ID"].unique()[:2])].assign(
        MDV=lambda rows: rows["DV"].isna().astype(int)
    )
    data = nlme.Dataset.from_frame(pd.concat([with_samples, first]), covariates=["WT", "APGR"])
    assert any("no observation of any output" in warning for warning in data.warnings)
    model = nlme.examples.Phenobarbital()
    with pytest.raises(nlme.FitError, match=r"1 of 3 subjects have no observation of any output \(1001\)"):
        nlme.fit(model, data, nlme.FO(), progress=False)
    fit = nlme.fit(model, data.subset(data.subjects[:2]), nlme.FO(optimiser=nlme.BFGS(iterations=1)), progress=False)
    found = fit.individualise(data)
    np.testing.assert_allclose(found.eta.loc[1001], 0.0, atol=1e-8)
    omega = np.sqrt(np.diag(fit.omega))
    np.testing.assert_allclose(found.eta_sd.loc[1001], omega, rtol=1e-6)
    assert (found.eta_sd.iloc[:2] < omega).all().all()
    table = found.predict(data.with_times([5.0]))
    alone = table[table["id"] == 1001]
    assert alone["time"].tolist() == [2.0, 5.0, 112.5]  # his own rows say when to predict, too
    np.testing.assert_allclose(alone["IPRED"], alone["PRED"])
