"""Stages: every method begins where the last one ended."""

import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.errors import FitError
from nlme_torch.inference.pooled.pooled import Pooled
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


@pytest.fixture(scope="module")
def data():
    return lines_data(simulate_lines(subjects=15, seed=1)[0])


def test_stages_are_the_methods_one_after_the_other(data):
    first, second = nlme.Pooled(steps=15), nlme.FO()
    staged = nlme.fit(Line(), data, nlme.Staged(first, second), progress=False)
    alone = nlme.fit(Line(), data, first, progress=False)
    then = nlme.fit(alone.model, data, second, progress=False)
    assert staged.parameters.equals(then.parameters) and staged.minus2ll == then.minus2ll
    assert list(staged.trace["phase"]) == ["pooled"] * 15 + list(then.trace["phase"])
    assert list(staged.trace["iteration"]) == list(range(1, len(staged.trace) + 1))
    assert staged.trace["a"].tolist() == alone.trace["a"].tolist() + then.trace["a"].tolist()
    assert staged.termination.startswith("stage 1, 15 steps of Adam; then stage 2, ")
    assert staged.termination.endswith(then.termination)
    assert staged.warnings == then.warnings, "that effects were held at zero is no longer true"
    assert staged.method == nlme.Staged(first, second) and str(staged.method) == f"Staged({first}, {second})"


def test_the_callers_model_is_left_alone_even_when_a_stage_fails(data):
    class Broken(Pooled):
        def estimate(self, density, generator, progress):
            raise FitError("broken")

    density = Density(Line(), data.batch(), nlme.Auto())
    before = parameter_values(density.model)
    nlme.Staged(nlme.Pooled(steps=3), nlme.FO()).estimate(density, torch.Generator(), False)
    with pytest.raises(FitError, match="broken"):
        nlme.Staged(nlme.Pooled(steps=3), Broken()).estimate(density, torch.Generator(), False)
    for name, value in parameter_values(density.model).items():
        assert torch.equal(value, before[name])


def test_three_stages_can_be_saved_and_plotted(data, tmp_path):
    short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
    fit = nlme.fit(Line(), data, nlme.Staged(nlme.Pooled(steps=5), short, nlme.FOCEI()), progress=False)
    loaded = nlme.load(fit.save(tmp_path / "run"), Line(), data)
    assert loaded.trace.shape == fit.trace.shape and "stage 3" in loaded.termination
    table = nlme.diagnostics.convergence_table(fit)
    assert {"pooled", "explore", "smooth", "FOCEI"} <= set(table["phase"])
    nlme.plots.convergence(fit)


def test_what_is_no_method_is_refused():
    with pytest.raises(FitError, match="estimation methods such as"):
        nlme.Staged(nlme.Pooled(), nlme.SAEM)
    with pytest.raises(TypeError):
        nlme.Staged(nlme.Pooled())
