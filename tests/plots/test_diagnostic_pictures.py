"""Pictures of checks, residuals, estimates and data: what is drawn, and that it is what the tables say."""

from dataclasses import replace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.fitted_models import made_fit, quick_fit, shared_fit
from support.phenobarbital_reference import nonmem_fit
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch import diagnostics, plots


@pytest.fixture(autouse=True)
def figures_closed():
    yield
    plt.close("all")


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def censored_fit():
    frame = pd.DataFrame({"ID": np.repeat(np.arange(20), 4), "TIME": np.tile([0.0, 1.0, 2.0, 3.0], 20), "DV": 1.0})
    frame["x"] = np.repeat(np.arange(20) % 2, 4)
    data = nlme.simulate(Line().with_values({"a": 0.5}), nlme.Dataset.from_frame(frame, covariates=["x"]), seed=1)
    drawn = data.frame.assign(CENS=lambda table: (table["DV"] < 0).astype(int))
    drawn["DV"] = drawn["DV"].clip(lower=0.0)
    return made_fit(Line(), nlme.Dataset.from_frame(drawn, covariates=["x"]), draws=3)


def test_a_vpc_draws_the_percentiles_of_its_table():
    check = diagnostics.vpc(nonmem_fit(), simulations=20, bins=4)
    figure = plots.vpc(check, labels={"time": "time (h)", "DV": "phenobarbital (mg/L)"})
    (ax,) = figure.axes
    assert ax.get_xlabel() == "time (h)" and ax.get_ylabel() == "phenobarbital (mg/L)"
    median = check.table[check.table["percentile"] == 0.5]
    lines = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 4]
    assert any(np.array_equal(line, median["observed"]) for line in lines)
    assert len(ax.lines[0].get_xdata()) == 155
    assert "median, observed" in legend_of(figure) and "90 % of 20 simulations" in figure.get_suptitle()
    corrected = plots.vpc(diagnostics.prediction_corrected_vpc(nonmem_fit(), simulations=20), log=True)
    assert "prediction-corrected" in corrected.axes[0].get_ylabel() and corrected.axes[0].get_yscale() == "log"


def test_a_panel_below_shows_what_is_below_the_limit():
    figure = plots.vpc(diagnostics.vpc(censored_fit(), simulations=20, stratify="x"))
    assert len(figure.axes) == 4 and figure.axes[0].get_title(loc="left") == "x 0"
    assert [ax.get_ylabel() for ax in figure.axes] == ["DV", "", "below limit", ""]
    assert "beyond the limit, observed" in legend_of(figure)


def test_the_residual_panel_draws_the_table():
    fit = quick_fit()
    figure = plots.residual_panel(fit, simulations=100)
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels == ["observed conc", "observed conc", "CWRES", "CWRES", "|IWRES|", "NPDE"]
    table = fit.table(simulations=100)
    np.testing.assert_allclose(np.sort(table["NPDE"]), figure.axes[5].lines[1].get_ydata())
    assert len(plots.residual_panel(shared_fit(), simulations=0).axes) == 12  # counts have no such residuals
    with pytest.raises(nlme.DataError, match="no outcome 'x'"):
        plots.residual_panel(fit, "x")
    with pytest.raises(nlme.DataError, match="no weighted residuals"):
        plots.residual_panel(shared_fit(), "count")


def test_pages_hold_all_subjects_with_bands_and_censored_marks():
    pages = list(plots.fit_pages(quick_fit(), columns=3, rows=2, points=10))
    assert len(pages) == 2 and all(len(page.axes) == 6 for page in pages)
    assert pages[1].get_suptitle() == "subjects 7 to 12 of 12"
    assert "90 % of the conditional distribution" in legend_of(pages[0])
    bands = diagnostics.individual_bands(quick_fit(), subjects=[1], points=10, level=0.8)
    curves = diagnostics.fit_curves(quick_fit(), subjects=[1], points=10)
    np.testing.assert_array_equal(bands["time"], curves["time"])
    inside = (curves["IPRED"] >= bands["lower"]) & (curves["IPRED"] <= bands["upper"])
    assert inside.mean() > 0.6 and (bands["lower"] <= bands["upper"]).all()
    (page,) = plots.fit_pages(censored_fit(), columns=5, rows=4, points=5)
    assert "below the limit" in legend_of(page)


def test_data_are_drawn_with_doses_limits_and_colours():
    figure = plots.data(nonmem_fit(), color="APGR")
    assert legend_of(figure) == ["APGR <= 7", "APGR > 7", "doses"]
    assert "below the limit" in legend_of(plots.data(censored_fit().data))
    assert len(plots.data(shared_fit(), color="sex").axes) == 3
    with pytest.raises(nlme.DataError, match="no covariate 'height'"):
        plots.data(nonmem_fit(), color="height")


def test_estimates_are_drawn_with_their_numbers():
    fit = replace(nonmem_fit(), method=nlme.FOCEI())
    with pytest.raises(nlme.FitError, match="no standard errors"):
        plots.correlation(fit)
    known = fit.with_standard_errors(kind="R")
    ax = plots.correlation(known)
    written = [text.get_text() for text in ax.texts]
    assert f"{known.uncertainty.correlation.iloc[0, 1]:.2f}" in written
    table = diagnostics.covariate_forest(known, draws=200)
    effect = table[(table["parameter"] == "volume") & (table["covariate"] == "APGR")].iloc[0]
    asphyxia = known.parameters.loc["asphyxia"]
    assert effect["ratio"] == pytest.approx(1 + asphyxia["estimate"])
    assert effect["upper"] - effect["lower"] == pytest.approx(2 * 1.96 * asphyxia["se"], rel=0.2)
    weight = table[(table["parameter"] == "clearance") & (table["covariate"] == "WT")]
    np.testing.assert_allclose(weight["ratio"], weight["value"] / fit.data.covariates["WT"].median())
    ax = plots.forest(table, labels={"WT": "weight (kg)"})
    assert any("weight (kg)" in text.get_text() for text in ax.get_yticklabels())
    bare = diagnostics.covariate_forest(fit)
    assert bare["lower"].isna().all()
    with pytest.raises(nlme.ModelError, match="no covariate changes"):
        diagnostics.covariate_forest(fit, parameters=["cl"])


def test_a_profile_and_a_comparison():
    from nlme_torch.inference import Comparison, Profile

    table = pd.DataFrame({"cl": [2.0, 2.3, 2.7, 3.0, 3.4], "difference": [3.84, 1.2, 0.0, 0.9, 3.84]})
    found = Profile("cl", "FOCEI", 2.7, 2.0, 3.4, 0.95, table, ())
    ax = plots.profile(found, labels={"cl": "CL (L/h)"})
    assert ax.get_xlabel() == "CL (L/h)" and "2.7 (2 to 3.4)" in ax.get_title(loc="left")
    rows = pd.DataFrame({"AIC": [10.0, 12.0], "BIC": [11.0, 15.0]}, index=["one", "two"])
    parameters = pd.DataFrame({"one": [1.0, 2.0, np.nan], "two": [1.1, 1.9, 0.3]}, index=["cl", "v", "cl_WT"])
    figure = plots.comparison(Comparison(rows, parameters, "FOCEI"))
    widths = sorted(patch.get_width() for patch in figure.axes[0].patches)
    assert widths == [0.0, 0.0, 2.0, 4.0]
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["cl", "v"]


def test_pictures_look_the_same_in_a_dark_session(tmp_path):
    from matplotlib import image

    with plt.style.context("dark_background"):
        plots.data(quick_fit()).savefig(tmp_path / "dark.png", dpi=60)
    plots.data(quick_fit()).savefig(tmp_path / "light.png", dpi=60)
    dark, light = (image.imread(tmp_path / f"{name}.png") for name in ("dark", "light"))
    np.testing.assert_array_equal(dark, light)


def test_no_setting_is_left_behind():
    settings = dict(mpl.rcParams)
    plots.vpc(quick_fit(), simulations=10)
    plots.data(quick_fit())
    assert dict(mpl.rcParams) == settings


def test_units_of_the_data_stand_on_the_axes():
    frame = nlme.examples.theophylline().frame
    data = nlme.Dataset.from_frame(
        frame, id="Subject", time="Time", outputs="conc", covariates=["Wt", "Dose"], units={"time": "h", "conc": "mg/L"}
    )
    fit = replace(quick_fit(), data=data)
    ax = plots.vpc(fit, simulations=10).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [h]", "conc [mg/L]")
    assert plots.data(data).axes[0].get_ylabel() == "conc [mg/L]"
    assert plots.residual_panel(fit, simulations=0).axes[0].get_ylabel() == "observed conc [mg/L]"
