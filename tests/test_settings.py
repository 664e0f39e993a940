"""Settings of every strategy: of the declared type, in their range, and never in another's place."""

import dataclasses
import math

import jaxtyping
import pytest

import nlme_torch as nlme
from nlme_torch.inference.likelihood.annealed_importance_sampling import Annealing

STRATEGIES = [
    nlme.FO, nlme.FOCE, nlme.FOCEI, nlme.Laplace, nlme.Quadrature, nlme.SAEM, nlme.Pooled, nlme.StepSchedule,
    nlme.Moves, nlme.BFGS, nlme.LBFGS, nlme.Adam, nlme.TrustRegion, nlme.StochasticInformation, Annealing,
    nlme.ImportanceSampling, nlme.AnnealedImportanceSampling,
    nlme.Tsit5, nlme.Rodas5P, nlme.Auto, nlme.RK4, nlme.TorchDiffEq, nlme.Race,
]  # fmt: skip
FIRST = {  # what may be given without its name, because nothing else could be meant
    nlme.Pooled: 2, nlme.Adam: 2, nlme.ImportanceSampling: 1,
    nlme.RK4: 1, nlme.TorchDiffEq: 1, nlme.Tsit5: 2, nlme.Rodas5P: 2, nlme.Auto: 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_the_checks_of_the_tests():
    """The tests' own type checker would refuse wrong values before the library's checks do."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
def test_a_value_of_another_type_is_refused_by_name(kind):
    assert kind() == dataclasses.replace(kind())
    for field in dataclasses.fields(kind):
        for wrong in (object(), [1], "no such text", math.nan, kind, 1.5 if isinstance(field.default, int) else {}):
            with pytest.raises(nlme.NLMEError, match=field.name):
                kind(**{field.name: wrong})
        number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        if number and field.name != "seed":
            for wrong in (True, -math.inf, -7, None if "None" not in str(field.type) else -7):
                with pytest.raises(nlme.NLMEError, match=field.name):
                    kind(**{field.name: wrong})
        if isinstance(field.default, bool):
            with pytest.raises(nlme.NLMEError, match=field.name):
                kind(**{field.name: 1})


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
def test_no_setting_is_taken_by_its_place_unless_nothing_else_could_be_meant(kind):
    allowed = FIRST.get(kind, 0)
    values = [field.default for field in dataclasses.fields(kind)]
    assert kind(*values[:allowed]) == kind()
    with pytest.raises(TypeError):
        kind(*[*values, None][: allowed + 1])


def test_what_was_put_into_the_optimiser_silently():
    with pytest.raises(TypeError):
        nlme.Quadrature(15)
    for wrong in (15, nlme.BFGS, nlme.SAEM):
        with pytest.raises(nlme.FitError, match="FOCEI: optimiser must be a Optimiser object or None, got"):
            nlme.FOCEI(optimiser=wrong)
    assert nlme.ImportanceSampling(draws=300) == nlme.ImportanceSampling(300)


def test_whole_numbers_serve_as_numbers_and_numpys_too():
    import numpy as np

    assert nlme.Tsit5(rtol=1).rtol == 1
    assert nlme.Quadrature(nodes=np.int64(5)).nodes == 5
