"""Fits on disk: what comes back is what was saved, and nothing half-written is ever left."""

import json
import os
import stat
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.fitting import saved_folder, writing

METHOD = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=2, exploration=6, smoothing=4))


@pytest.fixture(scope="module")
def data():
    return lines_data(simulate_lines(subjects=6, seed=9)[0])


@pytest.fixture(scope="module")
def fit(data):
    return nlme.fit(Line(full=True), data, METHOD, seed=2, progress=False, likelihood=nlme.ImportanceSampling(200))


@pytest.fixture(scope="module")
def ode_fit(fit, theophylline):
    """With a prior, networks, a fixed Omega in a buffer and another solver; its effects are made up."""
    model, few = nlme.examples.TheophyllineFourNetworks(), theophylline.subset(theophylline.subjects[:2])
    modes = 0.1 * torch.randn(28, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    identity = torch.eye(28, dtype=torch.float64)[:, :, None].repeat(1, 1, 2)
    effects = EffectEstimates(modes, identity, modes[0], modes, identity, modes[:, None])
    subjects = fit.log_likelihood.subjects.iloc[:2].assign(id=list(few.subjects))
    solver = nlme.Tsit5(rtol=1e-4, atol=1e-6, compile=False)
    likelihood = replace(fit.log_likelihood, subjects=subjects)
    return replace(fit, model=model, data=few, effects=effects, solver=solver, log_likelihood=likelihood), few


def assert_same(one, two):
    assert all(
        torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    )
    for field in fields(one.effects):
        assert torch.equal(getattr(one.effects, field.name), getattr(two.effects, field.name)), field.name
    pd.testing.assert_frame_equal(one.predictions, two.predictions, check_exact=True)
    pd.testing.assert_frame_equal(one.trace, two.trace, check_exact=True)
    pd.testing.assert_frame_equal(one.parameters, two.parameters, check_exact=True)
    pd.testing.assert_frame_equal(one.log_likelihood.subjects, two.log_likelihood.subjects, check_exact=True)
    for name in (
        "minus2ll",
        "ofv",
        "aic",
        "bic",
        "log_prior",
        "method",
        "termination",
        "warnings",
        "seed",
        "seconds",
        "solver",
    ):
        assert getattr(one, name) == getattr(two, name), name
    assert one.log_likelihood.standard_error == two.log_likelihood.standard_error
    assert str(one) == str(two)


def test_a_reloaded_fit_is_the_same_bit_for_bit(fit, data, tmp_path):
    folder = fit.save(tmp_path / "runs" / "one")
    assert folder == tmp_path / "runs" / "one"
    again = nlme.load(folder, Line(full=True), data)
    assert_same(fit, again)
    pd.testing.assert_frame_equal(fit.predict([5.0]), again.predict([5.0]), check_exact=True)


def test_an_equation_is_solved_as_it_was(ode_fit, tmp_path):
    fit, data = ode_fit
    again = nlme.load(fit.save(tmp_path / "b"), nlme.examples.TheophyllineFourNetworks(), data)
    assert again.solver == fit.solver
    assert_same(fit, again)
    tight = nlme.Tsit5(rtol=1e-9, atol=1e-10, compile=False)
    other = nlme.load(tmp_path / "b", nlme.examples.TheophyllineFourNetworks(), data, solver=tight)
    assert other.solver == tight and not other.predictions.equals(fit.predictions)


def test_the_given_model_is_left_alone(fit, data, tmp_path):
    model = Line(full=True)
    nlme.load(fit.save(tmp_path / "one"), model, data)
    assert model.a.value.item() == 1.0


def test_the_files_are_readable_without_the_library(fit, tmp_path):
    folder = fit.save(tmp_path / "one")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "fit.json",
        "tensors.safetensors",
        "parameters.csv",
        "omega.csv",
        "eta.csv",
        "predictions.csv",
        "trace.csv",
        "likelihood.csv",
    }
    record = json.loads((folder / "fit.json").read_text())
    assert (
        record["model"] == "Line"
        and record["seed"] == 2
        and record["log_likelihood"]["value"] == fit.log_likelihood.value
    )
    assert {"nlme_torch", "torch", "pyro", "python"} <= set(record["versions"]) and record["data_hash"] == fit.data.hash
    parameters = pd.read_csv(folder / "parameters.csv", index_col="parameter")
    assert parameters.estimate.tolist() == pytest.approx(fit.parameters.estimate.tolist(), rel=1e-14)
    eta = pd.read_csv(folder / "eta.csv", index_col="id")
    assert eta.to_numpy() == pytest.approx(fit.eta.to_numpy(), rel=1e-14)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask, "others may read it as far as the user allows"
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666 & ~umask}


# ------------------------------------------------------------------ nothing is lost, nothing is half-written


def test_an_existing_fit_is_not_overwritten_without_asking(fit, data, tmp_path):
    folder = fit.save(tmp_path / "one")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(nlme.FitError, match="one already exists; choose another name or pass overwrite=True"):
        fit.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = nlme.fit(Line(full=True), data, METHOD, seed=3, progress=False, likelihood=nlme.Laplace())
    other.save(folder, overwrite=True)
    assert nlme.load(folder, Line(full=True), data).seed == 3
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_not_a_fit_is_never_overwritten(fit, tmp_path, kind):
    place = tmp_path / "precious"
    if kind == "directory":
        place.mkdir()
        (place / "thesis.tex").write_text("years")
    else:
        place.write_text("years")
    with pytest.raises(nlme.FitError, match="precious is not a saved fit and is not overwritten"):
        fit.save(place, overwrite=True)
    assert (place / "thesis.tex" if kind == "directory" else place).read_text() == "years"


def test_a_place_that_cannot_be_written_is_named(fit, data, tmp_path):
    """A file where a folder should be: this is refused to a superuser, too."""
    (tmp_path / "file").write_text("")
    for place in ("file/run", "file/deeper/run", "x" * 300):
        with pytest.raises(nlme.FitError, match="cannot be saved as (.|\n)*choose a folder that you may write to"):
            fit.save(tmp_path / place)
        with pytest.raises(nlme.FitError, match="holds no fit|cannot be looked into"):
            nlme.load(tmp_path / place, Line(full=True), data)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("trouble", ["mkdtemp", "rename", "write_text", "save_file"])
def test_trouble_with_the_disk_is_an_error_of_the_fit(fit, tmp_path, monkeypatch, trouble):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied") if trouble != "save_file" else SafetensorError("No space left")

    owner = {"mkdtemp": saved_folder.tempfile, "save_file": writing}.get(trouble, Path)
    monkeypatch.setattr(owner, trouble, refused)
    with pytest.raises(nlme.FitError, match="cannot be saved as .*(Permission denied|No space left)"):
        fit.save(tmp_path / "run")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_in_the_middle_leaves_nothing_behind(fit, data, tmp_path, monkeypatch, overwrite):
    folder = tmp_path / "one"
    if overwrite:
        fit.save(folder)
    calls = []

    def failing(frame, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", failing)
    with pytest.raises(nlme.FitError, match="cannot be saved as .*one .disk full.; choose a folder"):
        fit.save(folder, overwrite=overwrite)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["one"] if overwrite else [])
    if overwrite:
        assert_same(fit, nlme.load(folder, Line(full=True), data))


def test_a_failure_at_the_last_moment_restores_the_old_fit(fit, data, tmp_path, monkeypatch):
    folder = fit.save(tmp_path / "one")
    real = writing.Path.rename

    def failing(self, target):
        if self.name == "new":
            raise OSError("renaming failed")
        return real(self, target)

    monkeypatch.setattr(writing.Path, "rename", failing)
    with pytest.raises(nlme.FitError, match="renaming failed"):
        fit.save(folder, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert_same(fit, nlme.load(folder, Line(full=True), data))


# ------------------------------------------------------------------ what does not fit together


def test_wrong_companions_are_refused(fit, data, tmp_path):
    folder = fit.save(tmp_path / "one")
    with pytest.raises(nlme.FitError, match="holds no fit"):
        nlme.load(tmp_path, Line(full=True), data)
    frame = data.frame
    frame.loc[0, "DV"] += 0.1
    with pytest.raises(
        nlme.FitError, match="the data differ from those that .*one was fitted to; load the original table"
    ):
        nlme.load(folder, Line(full=True), lines_data(frame))
    with pytest.raises(nlme.FitError, match="fitted with other settings of Line: they differ in _covariances"):
        nlme.load(folder, Line(), data)
    with pytest.raises(nlme.FitError, match=r"other parameters fixed \(sigma.unconstrained\)"):
        nlme.load(folder, Line(full=True, sigma=nlme.Positive(1.0, fixed=True)), data)

    class Quadratic(Line):
        def predict(self, t, p, cov):
            return p.a + p.b * t**2

    with pytest.raises(nlme.FitError, match="fitted with Line, not with Quadratic"):
        nlme.load(folder, Quadratic(full=True), data)


def test_another_fixed_omega_is_refused(ode_fit, tmp_path):
    fit, data = ode_fit
    folder = fit.save(tmp_path / "b")
    with pytest.raises(nlme.FitError, match="another fixed covariance"):
        nlme.load(folder, nlme.examples.TheophyllineFourNetworks(nlme.Fixed(2.0)), data)


@pytest.mark.parametrize("name, content", [("fit.json", "{"), ("tensors.safetensors", "x"), ("likelihood.csv", None)])
def test_a_damaged_directory_says_so(fit, data, tmp_path, name, content):
    folder = fit.save(tmp_path / "one")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(nlme.FitError, match="one cannot be read .*damaged"):
        nlme.load(folder, Line(full=True), data)


def test_an_unknown_format_or_solver_says_so(fit, data, tmp_path):
    folder = fit.save(tmp_path / "one")
    record = json.loads((folder / "fit.json").read_text())
    (folder / "fit.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(nlme.FitError, match="has format 99, this version reads format 1"):
        nlme.load(folder, Line(full=True), data)
    (folder / "fit.json").write_text(json.dumps(record | {"solver": {"name": "Mine", "settings": {}}}))
    with pytest.raises(nlme.FitError, match="solver Mine, which is not of this package; pass solver="):
        nlme.load(folder, Line(full=True), data)
    assert nlme.load(folder, Line(full=True), data, solver=nlme.Tsit5()).seed == 2


def test_standard_errors_come_back(data, tmp_path):
    fit = nlme.fit(Line(), data, nlme.FOCEI(), progress=False)
    known = fit.with_standard_errors(kind="R")
    again = nlme.load(known.save(tmp_path / "run"), Line(), data)
    assert_same(known, again)
    assert str(again.uncertainty) == str(known.uncertainty) and str(again) == str(known)
    for name in ("table", "covariance"):
        pd.testing.assert_frame_equal(
            getattr(again.uncertainty, name), getattr(known.uncertainty, name), check_exact=True
        )
    assert torch.equal(again.uncertainty.hessian, known.uncertainty.hessian)
    assert torch.equal(again.uncertainty.scores, known.uncertainty.scores)
    assert pd.read_csv(tmp_path / "run" / "standard_errors.csv", index_col=0)["se"].notna().all()
    assert nlme.load(fit.save(tmp_path / "plain"), Line(), data).uncertainty is None
