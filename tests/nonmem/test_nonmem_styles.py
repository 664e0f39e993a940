"""Control streams of many styles: all are converted, and their numbers are those of models written by hand."""

import importlib.util
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import nlme_torch as nlme
from tests.support.control_streams import STREAMS

FOLDER = STREAMS / "styles"
ALL = sorted(path.stem for path in FOLDER.glob("*.mod"))


def converted(name):
    return nlme.from_nonmem(FOLDER / f"{name}.mod")


def table(name="pkpd"):
    return pd.read_csv(FOLDER / f"{name}.csv", na_values=".")


def concentrations():
    return table().query("DVID != 2").drop(columns=["DVID"])


@pytest.mark.parametrize("name", ALL)
def test_every_style_has_a_finite_objective(name):
    run = converted(name)
    assert math.isfinite(nlme.ofv(run.model, run.data, nlme.Pooled()).minus2ll)


class Oral(nlme.Model):
    states = ("depot", "central")

    def __init__(self, **cl):
        super().__init__()
        self.cl, self.v = nlme.LogNormal(3.0, omega=0.1, **cl), nlme.LogNormal(30.0, omega=0.1)
        self.ka = nlme.Positive(1.2)

    def compartments(self, p):
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=p.v, absorption=p.ka)

    def observe(self, t, y, p):
        f = y.central / p.v
        return {"DV": dist.Normal(f, 0.2 * f)}


@pytest.mark.parametrize("name", ["occasions_if", "occasions_abbr"])
def test_occasions(name):
    if name == "occasions_if":  # ka has an effect of its own
        run = converted(name)
        assert run.model.n_effects == 5
    run = converted("occasions_abbr")
    by_hand = Oral(occasions=nlme.Occasions(2, omega=0.03))
    data = nlme.Dataset.from_frame(concentrations(), covariates=[], occasion="OCC")
    expected = nlme.ofv(by_hand, data, nlme.FOCEI()).ofv
    assert nlme.ofv(run.model, run.data, nlme.FOCEI()).ofv == pytest.approx(expected, abs=1e-6)


class Allometry(Oral):
    def individual(self, p, cov):
        return {"cl": p.cl * (cov.WT / 70) ** 0.75, "v": p.v * cov.WT / 70}

    def observe(self, t, y, p):
        f = y.central / p.v
        return {"DV": dist.Normal(f, (0.01 + (0.2 * f) ** 2).sqrt())}


def test_covariates_hold_backwards():
    """WT changes between records: NONMEM's next value holds, not the last one."""
    run = converted("oral_allometry")
    values = {"omega_cl": 0.09, "omega_v": 0.09}
    data = nlme.Dataset.from_frame(concentrations(), covariates=[], time_varying={"WT": "nocb"}, ignore=["OCC"])
    expected = nlme.ofv(Allometry(), data, nlme.FOCEI(), values).ofv
    assert nlme.ofv(run.model, run.data, nlme.FOCEI()).ofv == pytest.approx(expected, abs=1e-6)
    forwards = nlme.Dataset.from_frame(concentrations(), covariates=[], time_varying={"WT": "locf"}, ignore=["OCC"])
    assert abs(nlme.ofv(Allometry(), forwards, nlme.FOCEI(), values).ofv - expected) > 5e-5


class Limit(Oral):
    def observe(self, t, y, p):
        f = y.central / p.v
        return {"DV": dist.Normal(f, (0.01 + (0.2 * f) ** 2).sqrt())}


def test_values_below_the_limit():
    frame = concentrations()
    frame["CENS"] = frame["BLQ"]
    frame.loc[frame["BLQ"] == 1, "DV"] = 0.6
    data = nlme.Dataset.from_frame(frame, covariates=[], ignore=["OCC"])
    run = converted("m3")
    assert run.method == nlme.Laplace()
    expected = nlme.ofv(Limit(), data, nlme.Laplace()).ofv
    assert nlme.ofv(run.model, run.data, run.method).ofv == pytest.approx(expected, abs=1e-6)


class ZeroOrder(nlme.Model):
    states = ("central",)

    def __init__(self):
        super().__init__()
        self.cl, self.v, self.d = nlme.LogNormal(3.0), nlme.LogNormal(30.0), nlme.LogNormal(1.0, omega=0.2)
        self.both = nlme.Omega("cl", "v", structure=nlme.Full([[0.1], [0.03, 0.1]]))

    def dosing(self, p):
        return {"central": nlme.Dosing(duration=p.d)}

    def compartments(self, p):
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=p.v)

    def observe(self, t, y, p):
        f = y.central / p.v
        return {"DV": dist.Normal(f, (0.04 * f**2 + 0.001).sqrt())}


def test_zero_order_absorption():
    run = converted("zero_order")
    expected = nlme.ofv(ZeroOrder(), nlme.Dataset.from_frame(table("iv"), covariates=[]), nlme.FOCEI()).ofv
    assert nlme.ofv(run.model, run.data, nlme.FOCEI()).ofv == pytest.approx(expected, abs=1e-6)


class Turnover(Oral):
    states = ("depot", "central", "effect")
    compartments = nlme.Model.compartments

    def __init__(self):
        super().__init__()
        self.base = nlme.LogNormal(50.0, omega=0.05)

    def initial(self, p):
        return 0.0, 0.0, p.base

    def dynamics(self, t, y, p):
        c = y.central / p.v
        return (
            -p.ka * y.depot,
            p.ka * y.depot - p.cl * c,
            0.1 * (p.base * (1 - 0.7 * c / (1 + c)) - y.effect),
        )

    def observe(self, t, y, p):
        c = y.central / p.v
        return {"PK": dist.Normal(c, 0.2 * c), "PD": dist.Normal(y.effect, 3.0)}


def test_two_outcomes():
    run = converted("indirect_response")
    data = nlme.Dataset.from_frame(table(), outputs={"PK": 1, "PD": 2}, covariates=[], ignore=["OCC"])
    expected = nlme.ofv(Turnover(), data, nlme.Pooled()).ofv
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-5)
    assert set(run.data.outputs) == {"DVID1", "DVID2"}


def test_counts():
    frame = table("counts")
    mean = 1.5 * (1 - 0.4 * frame["DOSE"] / (10 + frame["DOSE"]))
    run = converted("poisson")
    expected = -2 * stats.poisson.logpmf(frame["DV"], mean).sum()
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-9)


def test_scores():
    frame = table("scores")
    first = 1 / (1 + np.exp(-(0.5 + 0.02 * frame["DOSE"])))
    second = 1 / (1 + np.exp(-(0.5 + 0.02 * frame["DOSE"] - 1)))
    chance = np.select([frame["DV"] == 0, frame["DV"] == 1], [1 - first, first - second], second)
    run = converted("ordinal")
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(-2 * np.log(chance).sum(), abs=1e-9)


def test_time_to_event():
    frame = table("events").query("MDV == 0")
    scale = 0.05 * np.exp(-0.01 * frame["DOSE"])
    shape = 1.3
    log_hazard = np.log(scale * shape * (scale * (frame["TIME"] + 1e-6)) ** (shape - 1))
    cumulative = (scale * (frame["TIME"] + 1e-6)) ** shape - (scale * 1e-6) ** shape
    expected = -2 * (log_hazard * frame["DV"] - cumulative).sum()
    run = converted("time_to_event")
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-3)


def test_correlated_residual_errors_of_one_record(tmp_path):
    """The variance of F*EPS(1) + EPS(2) holds twice F times their covariance."""
    text = (FOLDER / "zero_order.mod").read_text()
    text = text.replace("$SIGMA 0.04 0.001", "$SIGMA BLOCK(2) 0.04 0.005 0.001").replace(
        "iv.csv", (FOLDER / "iv.csv").as_posix()
    )
    (tmp_path / "run.mod").write_text(text)
    run = nlme.from_nonmem(tmp_path / "run.mod")

    class Correlated(ZeroOrder):
        def observe(self, t, y, p):
            f = y.central / p.v
            return {"DV": dist.Normal(f, (0.04 * f**2 + 0.001 + 2 * f * 0.005).sqrt())}

    data = nlme.Dataset.from_frame(table("iv"), covariates=[])
    expected = nlme.ofv(Correlated(), data, nlme.FOCEI()).ofv
    assert nlme.ofv(run.model, run.data, nlme.FOCEI()).ofv == pytest.approx(expected, abs=1e-6)


def test_repeated_blocks_that_are_no_occasions(tmp_path):
    """Effects with one variance that are used side by side become standard normal ones times its root."""
    text = (FOLDER / "occasions_abbr.mod").read_text().replace("pkpd.csv", (FOLDER / "pkpd.csv").as_posix())
    text = text.replace("ETA(1)+ETA(OCC_CL)", "ETA(1)+ETA(3)").replace("EXP(ETA(2))", "EXP(ETA(2)+ETA(4))")
    (tmp_path / "run.mod").write_text(text)
    run = nlme.from_nonmem(tmp_path / "run.mod")
    by_hand = Oral()
    data = nlme.Dataset.from_frame(concentrations(), covariates=[], ignore=["OCC"])
    expected = nlme.ofv(by_hand, data, nlme.FOCEI(), {"omega_cl": 0.13, "omega_v": 0.13}).ofv
    assert nlme.ofv(run.model, run.data, nlme.FOCEI()).ofv == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["oral_allometry", "joint_flags", "emax_additive"])
def test_the_written_file_gives_the_same_number(tmp_path, name):
    from nlme_torch.__main__ import main

    file = tmp_path / "written.py"
    assert main(["convert", str(FOLDER / f"{name}.mod"), "--output", str(file)]) == 0
    specification = importlib.util.spec_from_file_location("written", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    kind = next(v for v in vars(module).values() if isinstance(v, type) and v.__module__ == "written")
    run = converted(name)
    expected = nlme.ofv(run.model, run.data, nlme.Pooled()).minus2ll
    assert nlme.ofv(kind(), module.data(), nlme.Pooled()).minus2ll == expected
    assert module.method == run.method


def test_a_prior_is_that_of_the_typical_value():
    run = converted("prior")
    found = nlme.ofv(run.model, run.data, nlme.Pooled())
    normal = [dist.Normal(*pair) for pair in ((3.0, 0.5**0.5), (30.0, 3.0), (1.1, 0.1**0.5))]
    expected = sum(n.log_prob(torch.tensor(v)).item() for n, v in zip(normal, (3.0, 30.0, 1.2), strict=True))
    assert found.log_prior == pytest.approx(expected, abs=1e-6)


def test_overdispersed_counts():
    frame = table("counts")
    run = converted("negative_binomial")
    size = 1 / 0.4
    expected = -2 * stats.nbinom.logpmf(frame["DV"], size, size / (size + 1.5)).sum()
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-9)


def test_the_score_of_the_record_before():
    """PDV=DV at the end of the code is what PDV is at the next record."""
    frame = table("scores")
    before = frame.groupby("ID")["DV"].shift().fillna(0)
    logit = 0.2 + 0.02 * frame["DOSE"] + 0.7 * (before >= 1)
    chance = 1 / (1 + np.exp(-logit))
    expected = -2 * np.log(np.where(frame["DV"] >= 1, chance, 1 - chance)).sum()
    run = converted("markov")
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-9)


def test_hybrid_constants_are_the_rate_constants(tmp_path):
    """ALPHA 1.5, BETA 0.1 and K21 0.5: K = ALPHA BETA / K21, K12 = ALPHA + BETA - K21 - K."""
    text = (FOLDER / "hybrid_constants.mod").read_text().replace("iv.csv", (FOLDER / "iv.csv").as_posix())
    text = text.replace("TRANS6", "TRANS1").replace("D1=0.5", "D1=0.5\nK=ALPHA*BETA/K21\nK12=ALPHA+BETA-K21-K")
    (tmp_path / "run.mod").write_text(text)
    micro, hybrid = nlme.from_nonmem(tmp_path / "run.mod"), converted("hybrid_constants")
    expected = nlme.ofv(micro.model, micro.data, nlme.Pooled()).ofv
    assert nlme.ofv(hybrid.model, hybrid.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-8)


def test_one_outcome_seen_through_indicators_of_two():
    """Y sums both outcomes with factors 0 and 1: the same as one outcome each."""
    run = converted("effect_compartment")
    text = (FOLDER / "effect_compartment.mod").read_text()
    start = text.index(" Q1=0")
    split = text[:start] + " IF (DVID.EQ.1) Y=CP*(1+EPS(1))\n IF (DVID.EQ.2) Y=EFFECT+EPS(2)\n"
    split += text[text.index("$THETA") :]
    file = FOLDER / "effect_compartment.mod"
    other = nlme.from_nonmem(_beside(file, split))
    expected = nlme.ofv(other.model, other.data, nlme.Pooled()).ofv
    assert set(other.data.outputs) == {"DVID1", "DVID2"}
    assert nlme.ofv(run.model, run.data, nlme.Pooled()).ofv == pytest.approx(expected, abs=1e-6)


def _beside(file, text):
    """A stream in a folder of its own that reads the data beside another one."""
    folder = Path(tempfile.mkdtemp())
    for table_file in file.parent.glob("*.csv"):
        (folder / table_file.name).write_text(table_file.read_text())
    (folder / file.name).write_text(text)
    return folder / file.name


def test_without_effects_the_method_is_the_pooled_one(tmp_path):
    """As survival models are run, with a variance fixed at 0; every other method refuses a model without effects."""
    text = (FOLDER / "time_to_event.mod").read_text().replace("events.csv", (FOLDER / "events.csv").as_posix())
    (tmp_path / "run.mod").write_text(text.replace("$OMEGA 0.2", "$OMEGA 0 FIX"))
    run = nlme.from_nonmem(tmp_path / "run.mod")
    assert run.method == nlme.Pooled() and any("nlme.Pooled()" in note for note in run.notes)
    frame = table("events")
    events = frame[(frame["EVID"] == 0) & (frame["MDV"] == 0)]
    scale = 0.05 * np.exp(-0.01 * events["DOSE"])
    hazard = scale * 1.3 * (scale * events["TIME"]) ** 0.3
    expected = 2 * ((scale * events["TIME"]) ** 1.3 - events["DV"] * np.log(hazard)).sum()
    assert nlme.ofv(run.model, run.data, run.method).ofv == pytest.approx(expected, abs=1e-3)
