"""Pictures: what is drawn, where, and that nothing is left behind."""

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from support.fitted_models import hybrid_fit, low_rank_fit, made_fit, quick_fit, shared_fit, walking_trace

import nlme_torch as nlme
from nlme_torch import diagnostics, plots
from nlme_torch.plots.style import styled


@pytest.fixture(autouse=True)
def figures_closed():
    yield
    plt.close("all")


def line(ax, label):
    return next(entry for entry in ax.lines if entry.get_label() == label)


def bottom_legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


CALLS = {
    "fits": lambda: plots.fits(quick_fit()),
    "convergence": lambda: plots.convergence(quick_fit()),
    "observation": lambda: plots.observation(quick_fit(), 3),
    "goodness_of_fit": lambda: plots.goodness_of_fit(quick_fit()),
    "effects": lambda: plots.effects(quick_fit()),
    "network": lambda: plots.network(hybrid_fit(), "absorption"),
    "network_over_time": lambda: plots.network_over_time(hybrid_fit(), "absorption"),
    "network_heatmap": lambda: plots.network_heatmap(hybrid_fit(), "absorption", points=11),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_figure_and_no_setting_is_left_behind(name, tmp_path):
    settings, figures = dict(mpl.rcParams), plt.get_fignums()
    drawn = CALLS[name]()
    assert dict(mpl.rcParams) == settings
    assert len(plt.get_fignums()) == len(figures) + 1
    assert isinstance(drawn, Axes | Figure)
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_settings_are_restored_after_an_error():
    settings = dict(mpl.rcParams)
    with pytest.raises(nlme.DataError):
        plots.observation(quick_fit(), 10_000)
    assert dict(mpl.rcParams) == settings and not plt.get_fignums()


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.observation(quick_fit(), 3, ax=ax),
        lambda ax: plots.network(hybrid_fit(), "absorption", ax=ax),
        lambda ax: plots.network_over_time(hybrid_fit(), "absorption", ax=ax),
        lambda ax: plots.fits(quick_fit(), subjects=[1], ax=ax).axes[0],
    ],
    ids=["observation", "network", "network_over_time", "fits"],
)
def test_axes_that_are_given_are_used(draw):
    figure, ax = plt.subplots()
    assert draw(ax) is ax
    assert plt.get_fignums() == [figure.number] and figure.axes == [ax] and len(ax.lines) > 1
    assert ax.get_legend() is not None and not figure.legends


def test_fits_draw_data_and_both_curves_of_every_subject():
    fit = quick_fit()
    figure = plots.fits(fit, columns=5, labels={"time": "time (h)", "conc": "theophylline (mg/L)"})
    assert len(figure.axes) == 12
    frame = fit.data.frame
    curves = diagnostics.fit_curves(fit)
    for ax, subject in zip(figure.axes, fit.data.subjects, strict=True):
        own = frame[frame["Subject"] == subject]
        np.testing.assert_array_equal(line(ax, "observed").get_xydata(), own[["Time", "conc"]])
        curve = curves[curves["id"] == subject]
        np.testing.assert_array_equal(line(ax, "IPRED (individual)").get_ydata(), curve["IPRED"])
        np.testing.assert_array_equal(line(ax, "PRED (typical)").get_ydata(), curve["PRED"])
        assert line(ax, "PRED (typical)").get_linestyle() == "--"
        assert ax.get_title(loc="left") == f"subject {subject}"
    assert figure.axes[0].get_ylabel() == "theophylline (mg/L)" and figure.axes[1].get_ylabel() == ""
    assert [ax.get_xlabel() for ax in figure.axes] == [""] * 7 + ["time (h)"] * 5
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert bottom_legend(figure) == ["observed", "IPRED (individual)", "PRED (typical)"]


def test_fits_of_some_subjects_and_outcomes():
    assert len(plots.fits(shared_fit(), subjects=[2, 5, 7], columns=2).axes) == 9
    figure = plots.fits(shared_fit(), subjects=[2, 5, 7], outcomes=["count"], columns=2)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["subject 2", "subject 5", "subject 7"]
    with pytest.raises(nlme.DataError, match="no subject 99"):
        plots.fits(quick_fit(), subjects=[99])
    with pytest.raises(nlme.DataError, match="no outcome 'x'"):
        plots.fits(quick_fit(), outcomes=["x"])
    with pytest.raises(nlme.FitError, match="ax= holds one panel, but 2"):
        plots.fits(quick_fit(), subjects=[1, 2], ax=plt.subplots()[1])


def test_fits_on_a_logarithmic_axis_leave_out_what_is_not_positive():
    figure = plots.fits(quick_fit(), subjects=[2], log=True)
    assert figure.axes[0].get_yscale() == "log"
    assert line(figure.axes[0], "observed").get_ydata().min() > 0


def test_many_subjects_are_cut_and_said_so():
    frame = nlme.examples.theophylline().frame
    many = pd.concat([frame.assign(Subject=frame["Subject"] + 12 * k) for k in range(4)])
    many = nlme.Dataset.from_frame(many, id="Subject", time="Time", outputs="conc", covariates=["Wt", "Dose"])
    figure = plots.fits(made_fit(nlme.examples.TheophyllineClosedForm(), many, draws=2), columns=8, points=5)
    assert len(figure.axes) == 40 and figure.get_suptitle() == "first 40 of 48 subjects"


def test_convergence_has_a_panel_for_every_parameter_and_shades_the_phases():
    figure = plots.convergence(quick_fit(), labels={"cl": "CL (L/h)"})
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "ka", "CL (L/h)", "v", "sigma", "variance of ka", "variance of cl", "variance of v",
        "log p(y, phi)", "acceptance",
    ]  # fmt: skip
    trace = quick_fit().trace
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), trace["ka"])
    assert all(len(ax.patches) == 3 for ax in figure.axes)
    entries = bottom_legend(figure)
    assert entries[:3] == ["burn-in", "explore", "smooth"]
    assert all(entry.startswith("acceptance: ") for entry in entries[3:]) and len(entries) > 3
    assert all(ax.get_legend() is None for ax in figure.axes)  # nothing lies on curves
    explored = trace.loc[trace["phase"] == "explore", "iteration"]
    box = figure.axes[0].patches[1].get_extents().transformed(figure.axes[0].transData.inverted())
    assert [box.x0, box.x1] == pytest.approx([explored.min() - 0.5, explored.max() + 0.5])


def test_convergence_of_a_method_without_phases_has_no_shade():
    trace = quick_fit().trace.assign(phase="FOCEI")
    trace = trace[[name for name in trace if not name.startswith("acceptance")]]
    figure = plots.convergence(replace(quick_fit(), trace=trace))
    assert all(len(ax.patches) == 0 for ax in figure.axes) and not figure.legends


def test_convergence_of_many_weights_is_one_panel_per_network():
    model = nlme.examples.TheophyllineFourNetworks(nlme.Diagonal(0.1))
    figure = plots.convergence(replace(quick_fit(), model=model, trace=walking_trace(model)))
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert len(panels["elimination: 7 weights"].lines) == 7
    assert len(panels["elimination: 7 variances"].lines) == 7
    assert len(panels) == 1 + 4 + 4 + 1 + 1
    with pytest.raises(nlme.FitError, match="no trace"):
        plots.convergence(replace(quick_fit(), trace=pd.DataFrame({"iteration": [], "phase": []})))


def test_an_observation_is_marked_and_its_transform_stated():
    fit = quick_fit()
    at = diagnostics.predictive_density(fit, 3)
    ax = plots.observation(fit, 3, labels={"conc": "theophylline (mg/L)"})
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [
        f"new subject: PIT {at.pit_population:.3f}",
        f"subject 1: PIT {at.pit_individual:.3f}",
        "observed 10.5",
    ]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), at.table[["value", "population"]])
    assert line(ax, "observed 10.5").get_xdata() == [10.5, 10.5]
    assert ax.get_xlabel() == "theophylline (mg/L)" and ax.get_title(loc="left") == "subject 1, time = 1.12"
    assert [entry.get_label() for entry in plots.observation(at).lines] == [entry.get_label() for entry in ax.lines]
    with pytest.raises(nlme.DataError, match="row="):
        plots.observation(fit)


def test_a_count_is_drawn_as_bars():
    ax = plots.observation(shared_fit(), 5, "count")
    at = diagnostics.predictive_density(shared_fit(), 5, "count")
    assert len(ax.patches) == 2 * len(at.table) and ax.get_ylabel() == "probability"


def test_goodness_of_fit_has_six_panels_for_every_outcome():
    fit = quick_fit()
    figure = plots.goodness_of_fit(fit, labels={"time": "time (h)"})
    assert len(figure.axes) == 6
    predictions = fit.predictions
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), predictions[["PRED", "DV"]])
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xydata(), predictions[["IPRED", "DV"]])
    residuals = next(entry for entry in figure.axes[2].lines if len(entry.get_xdata()) == 132)
    np.testing.assert_array_equal(residuals.get_xydata(), predictions[["time", "IWRES"]])
    assert figure.axes[2].get_xlabel() == "time (h)"
    assert len(plots.goodness_of_fit(shared_fit()).axes) == 18
    assert len(plots.goodness_of_fit(shared_fit(), "count", log=True).axes) == 6


def test_effects_alone_against_each_other_and_against_covariates():
    fit = quick_fit()
    figure = plots.effects(fit)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["eta_ka", "eta_cl", "eta_v"]
    np.testing.assert_array_equal(line(figure.axes[1], "conditional modes").get_xdata(), fit.eta["eta_cl"])
    normal = line(figure.axes[1], "N(0, omega)")
    assert normal.get_ydata().max() == pytest.approx(
        1 / np.sqrt(2 * np.pi * fit.omega.loc["eta_cl", "eta_cl"]), rel=1e-3
    )
    assert f"{100 * fit.shrinkage['eta_cl']:.0f} %" in figure.axes[1].texts[0].get_text()
    pairs = plots.effects(fit, versus="effects")
    assert len(pairs.axes) == 9
    np.testing.assert_array_equal(pairs.axes[3].lines[0].get_xydata(), fit.eta[["eta_ka", "eta_cl"]])
    beside = plots.effects(fit, ["eta_cl"], versus="covariates", labels={"Wt": "weight (kg)"})
    assert len(beside.axes) == 2 and beside.axes[0].get_xlabel() == "weight (kg)"
    assert len(plots.effects(shared_fit(), versus="covariates").axes) == 9
    assert len(plots.effects(low_rank_fit(), versus="effects").axes) == 64
    with pytest.raises(nlme.ModelError, match="no other"):
        plots.effects(fit, ["eta_cl"], versus="effects")


def test_a_network_shows_typical_subject_subjects_band_and_what_was_visited():
    fit = hybrid_fit()
    function = diagnostics.network_function(fit, "absorption", {"day": "vary", "left": 0.5})
    ax = plots.network(fit, "absorption", {"day": "vary", "left": 0.5}, labels={"absorption": "rate (1/h)"})
    np.testing.assert_array_equal(line(ax, "typical subject").get_ydata(), function.population["output"])
    band = next(entry for entry in ax.collections if isinstance(entry, PolyCollection))
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(function.band["upper"].max())
    assert len(ax.lines) == 1 + 2 * 12 + 1
    visited = function.visited[function.visited["observed"]]
    np.testing.assert_array_equal(line(ax, "at observations").get_xdata(), visited["day"])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("day", "rate (1/h)", "left: 0.5")
    assert "90 % of subjects" in bottom_legend(ax.figure)
    again = plots.network(function, subjects=False, band=False)
    assert len(again.lines) == 2 and not again.collections


def test_slices_are_one_line_each():
    ax = plots.network(hybrid_fit(), "absorption", {"day": [0.0, 0.5], "left": "vary"}, limits=(-0.5, 1.0))
    assert [entry.get_label() for entry in ax.lines] == ["day: 0", "day: 0.5", "at observations"]
    # what no solution visited is shaded
    assert len(ax.patches) == 1 and ax.patches[0].get_width() == pytest.approx(0.5, abs=1e-6)


def test_networks_with_latent_inputs_low_rank_weights_and_without_spread():
    ax = plots.network(shared_fit(), "effect")
    assert len(ax.lines) == 26 and ax.get_title(loc="left") == "2 * z[0]: own value, z[1]: own value"
    assert len(plots.network(low_rank_fit(), "elimination").lines) == 26
    alone = plots.network(shared_fit(), "size")
    assert [entry.get_label() for entry in alone.lines] == ["typical subject", "at observations"]
    with pytest.raises(nlme.ModelError, match="name="):
        plots.network(shared_fit())


def test_a_network_over_time_has_two_lines_for_every_subject():
    ax = plots.network_over_time(hybrid_fit(), "absorption", labels={"time": "time (h)"})
    assert len(ax.lines) == 24 and ax.get_xlabel() == "time (h)"


def test_a_heat_map_shows_the_typical_subject_and_the_spread_where_there_is_any():
    figure = plots.network_heatmap(hybrid_fit(), "absorption", points=11)
    maps = [ax for ax in figure.axes if any(isinstance(entry, QuadMesh) for entry in ax.collections)]
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert titles == ["absorption, typical subject", "standard deviation between subjects"]
    assert len(maps) >= 2 and len(figure.axes[0].lines) == 12
    inputs = {"c": "vary", "z": "vary", "other": 0.0}
    assert len(plots.network_heatmap(shared_fit(), "effect", inputs, points=11).axes) == 2


def test_a_notebook_shows_a_figure_once(monkeypatch):
    """IPython displays the value of a cell; then its backend displays all open figures, and closes them."""
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    figure = plots.effects(quick_fit())
    figure._ipython_display_()
    figure._ipython_display_()
    assert len(shown) == 1 and shown[0].data.startswith(b"\x89PNG")
    plt.close(figure)
    figure._ipython_display_()
    assert len(shown) == 2


def test_what_a_backend_sets_when_the_first_figure_loads_it_stays():
    """A notebook's backend switches to interactive then; taken back, no figure would be shown any more."""

    @styled
    def draw():
        assert mpl.rcParams["axes.grid"] and not mpl.rcParams["axes.spines.top"]
        plt.ion()

    try:
        draw()
        assert plt.isinteractive() and mpl.rcParams["axes.spines.top"]
    finally:
        plt.ioff()


def test_nothing_is_shown_and_no_backend_is_chosen():
    for path in Path(plots.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert "plt.show" not in text.replace("``plt.show()``", "") and "use(" not in text, path
