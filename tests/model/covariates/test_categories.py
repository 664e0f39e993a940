"""Text covariates: levels belong to the fitted model and are matched by name, in every call."""

import copy
import pickle

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.individual.category import Category, NumericCovariate
from nlme_torch.solve import Auto

RACES = ("asian", "black", "white")


class Decay(nlme.Model):
    """y = exp(-cl t) + e, with what the test declares for cl."""

    def __init__(self, *effects):
        super().__init__()
        self.cl = nlme.LogNormal(0.3, *effects, omega=0.05)
        self.sigma = nlme.Positive(0.05)

    def predict(self, t, p, cov):
        return torch.exp(-p.cl * t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


class ByName(Decay):
    """The same, with men's clearance doubled where the covariate is read by name."""

    def individual(self, p, cov):
        return {"cl": torch.where(cov.SEX == "male", 2 * p.cl, p.cl)}


class Ode(ByName):
    """Compared in the equation itself."""

    states = ("y",)
    predict = nlme.Model.predict

    def individual(self, p, cov):
        return {"sex": cov.SEX}

    def initial(self, p):
        return (torch.where(p.sex == "male", 1.0, 1.0),)

    def dynamics(self, t, y, p):
        return (-torch.where(p.sex == "male", 2 * p.cl, p.cl) * y.y,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.y, p.sigma)}


def frame(subjects=24, seed=0):
    rng = np.random.default_rng(seed)
    race = [RACES[(0, 1, 2, 2)[k % 4]] for k in range(subjects)]
    sex = ["female" if k % 3 else "male" for k in range(subjects)]
    shift = {"white": 0.0, "black": 0.5, "asian": -0.4}
    rows = []
    for k in range(subjects):
        cl = 0.3 * np.exp(shift[race[k]] + 0.2 * rng.standard_normal())
        for t in (0.5, 1.0, 2.0, 4.0):
            rows.append((k + 1, t, np.exp(-cl * t) + 0.03 * rng.standard_normal(), race[k], sex[k]))
    table = pd.DataFrame(rows, columns=["ID", "TIME", "DV", "RACE", "SEX"])
    return table.assign(BLACK=(table.RACE == "black") * 1.0, ASIAN=(table.RACE == "asian") * 1.0)


def dataset(table=None, **columns):
    return nlme.Dataset.from_frame(frame() if table is None else table, **{"covariates": ["RACE", "SEX"], **columns})


def numbers():
    return nlme.Dataset.from_frame(frame(), covariates=["BLACK", "ASIAN"])


METHODS = {
    "saem": lambda: nlme.SAEM(schedule=nlme.StepSchedule(exploration=15, smoothing=10)),
    "focei": nlme.FOCEI,
    "laplace": nlme.Laplace,
    "fo": nlme.FO,
}


@pytest.mark.parametrize("method", METHODS)
def test_levels_are_estimated_as_indicators_coded_by_hand(method):
    by_level = nlme.fit(Decay(nlme.Shift("RACE")), dataset(), METHODS[method](), seed=1, progress=False)
    by_hand = nlme.fit(
        Decay(nlme.Shift("ASIAN"), nlme.Shift("BLACK")), numbers(), METHODS[method](), seed=1, progress=False
    )
    assert by_level.minus2ll == pytest.approx(by_hand.minus2ll, abs=1e-6)
    table = by_level.parameters["estimate"]
    assert list(table.index) == ["cl", "cl_RACE[asian]", "cl_RACE[black]", "sigma", "omega_cl"]
    np.testing.assert_allclose(table.to_numpy(), by_hand.parameters["estimate"].to_numpy(), atol=1e-6)
    assert by_level.n_parameters == by_hand.n_parameters == 5
    assert "reference of cl_RACE: white" in str(by_level)


def test_standard_errors_of_levels():
    fit = nlme.fit(Decay(nlme.Shift("RACE")), dataset(), nlme.FOCEI(), progress=False).with_standard_errors(kind="R")
    by_hand = nlme.fit(Decay(nlme.Shift("ASIAN"), nlme.Shift("BLACK")), numbers(), nlme.FOCEI(), progress=False)
    expected = by_hand.with_standard_errors(kind="R").parameters["se"].to_numpy()
    np.testing.assert_allclose(fit.parameters["se"].to_numpy(), expected, rtol=1e-3)


def test_a_power_over_levels_is_a_factor_for_each():
    model = Decay(nlme.Power("RACE", ref="black", exponent={"white": -0.5}))
    found = nlme.ofv(model, dataset(), nlme.FO(), {"cl_RACE[asian]": 0.3})
    shift = Decay(nlme.Shift("RACE", ref="black", coefficient={"asian": 0.3, "white": -0.5}))
    assert found.minus2ll == nlme.ofv(shift, dataset(), nlme.FO()).minus2ll


def test_the_reference_is_the_commonest_level_or_the_one_stated():
    def reference(effect, data=None):
        fit = nlme.fit(Decay(effect), data or dataset(), nlme.FO(), progress=False)
        return fit.model.cl.covariates["RACE"].reference

    assert reference(nlme.Shift("RACE")) == "white"
    assert reference(nlme.Shift("RACE", ref="black")) == "black"
    even = frame().query("ID % 4 != 3")  # eight of each: the first level
    assert reference(nlme.Shift("RACE"), dataset(even)) == "asian"
    for effect, message in (
        (nlme.Shift("RACE", ref="green"), "'green' is no level"),
        (nlme.Shift("RACE", ref=1.0), "ref is the number 1, but the covariate holds text"),
        (nlme.Power("RACE", ref=70.0), "ref is the number 70, but the covariate holds text"),
        (nlme.Shift("RACE", coefficient={"green": 1.0}), "'green' is no level"),
        (nlme.Shift("RACE", coefficient=dict.fromkeys(RACES, 0.1)), "every level has a coefficient"),
    ):
        with pytest.raises(nlme.ModelError, match=message):
            reference(effect)
    with pytest.raises(nlme.ModelError, match="holds numbers"):
        Density(Decay(nlme.Shift("BLACK", ref="black")), numbers().batch(), Auto())


@pytest.mark.parametrize("model", [ByName, Ode])
@pytest.mark.parametrize("solver", [None, nlme.Auto(compile=False), nlme.RK4(steps=20)])
def test_comparison_by_name_in_individual_and_in_the_equation(model, solver):
    data = dataset(frame().assign(TIME=lambda t: t.TIME - 0.5))  # where the equation starts
    values = nlme.ofv(model(), data, nlme.FO(), solver=solver).subjects["minus2ll"].to_numpy()
    male = (frame().groupby("ID").SEX.first() == "male").to_numpy()
    slow, fast = Decay(), Decay()
    fast.cl.typical.data += np.log(2)
    expected = [nlme.ofv(m, data, nlme.FO()).subjects["minus2ll"].to_numpy() for m in (slow, fast)]
    np.testing.assert_allclose(values, np.where(male, expected[1], expected[0]), rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("model", [ByName(), Ode(), Decay(nlme.Shift("SEX"))])
def test_new_subjects_are_read_by_name_whoever_they_are(model):
    data = dataset()
    fit = nlme.fit(model, data, nlme.FO(), progress=False)
    whole = fit.predictions
    for subject in (1, 2):  # a man, a woman: alone, each would be level 0
        alone = dataset(frame().query("ID == @subject"))
        assert alone.categories["SEX"] == (("male",) if subject == 1 else ("female",))
        expected = whole[whole["id"] == subject]["PRED"].to_numpy()
        np.testing.assert_allclose(fit.individualise(alone).predictions["PRED"].to_numpy(), expected, rtol=1e-12)
        assert nlme.held_out(fit, alone, nlme.FO()).minus2ll == pytest.approx(
            nlme.held_out(fit, data.subset([subject]), nlme.FO()).minus2ll, rel=1e-12
        )
        one = nlme.ofv(fit.model, alone, nlme.FO()).minus2ll
        assert one == pytest.approx(nlme.ofv(fit.model, data.subset([subject]), nlme.FO()).minus2ll, rel=1e-12)
        drawn = [nlme.simulate(fit.model, d, seed=3).frame["DV"] for d in (alone, data.subset([subject]))]
        np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-12)


def test_an_unknown_level_is_an_error_where_it_is_read():
    new = frame().query("ID == 1").assign(SEX="unknown")
    for model in (ByName(), Decay(nlme.Shift("SEX"))):
        fit = nlme.fit(model, dataset(), nlme.FO(), progress=False)
        with pytest.raises(nlme.ModelError, match=r"'SEX' of subject 1 is 'unknown'.*'female', 'male'"):
            fit.individualise(dataset(new))
    # a model that does not read the covariate does not mind it
    blind = nlme.fit(Decay(), dataset(), nlme.FO(), progress=False)
    assert len(blind.individualise(dataset(new)).predictions) == 4
    # numbers where there was text, and text where there were numbers
    fit = nlme.fit(ByName(), dataset(), nlme.FO(), progress=False)
    with pytest.raises(nlme.ModelError, match="'SEX' of subject 1 is '1'"):
        fit.individualise(dataset(new.assign(SEX=1.0)))


def test_a_level_that_nobody_in_training_had_has_no_coefficient():
    data = dataset()
    few = data.subset([k for k in data.subjects if k % 4 != 2])  # no black subject
    fit = nlme.fit(Decay(nlme.Shift("RACE")), few, nlme.FOCEI(), progress=False)
    assert list(fit.parameters.index) == ["cl", "cl_RACE[asian]", "sigma", "omega_cl"]
    with pytest.raises(nlme.ModelError, match="level 'black', which no subject of the data"):
        nlme.held_out(fit, data.subset([2]))


def test_a_wrong_name_in_a_comparison_is_an_error():
    class Wrong(ByName):
        name = "man"

        def individual(self, p, cov):
            return {"cl": torch.where(self.name == cov.SEX, 2 * p.cl, p.cl)}

    with pytest.raises(nlme.ModelError, match=r"SEX is compared with 'man'; its levels are 'female', 'male'"):
        nlme.fit(Wrong(), dataset(), nlme.FO(), progress=False)
    with pytest.raises(nlme.ModelError, match="a covariate that holds numbers is compared with 'male'"):
        nlme.fit(Ode(), dataset(frame().assign(SEX=1.0)), nlme.FO(), progress=False)
    with pytest.raises(nlme.ModelError, match="a covariate that holds numbers is compared with 'man'"):
        nlme.fit(Wrong(), dataset(frame().assign(SEX=1.0)), nlme.FO(), progress=False)


@pytest.mark.parametrize(
    "use",
    [
        lambda sex: sex * 0.3,
        lambda sex: 1 + sex,
        lambda sex: sex > 0,
        lambda sex: torch.exp(sex),
        lambda sex: torch.stack([sex, sex]),
        lambda sex: sex.abs(),
        lambda sex: float(sex),
        lambda sex: "a" if sex else "b",
    ],
)
def test_arithmetic_with_text_is_refused(use):
    with pytest.raises(nlme.ModelError, match="SEX holds text"):
        use(Category("SEX", ("female", "male"), torch.tensor([0.0, 1.0])))


def test_levels_that_are_numbers_are_names_too():
    table = frame().assign(GRP=lambda t: np.where(t.ID % 3 == 0, "unknown", (t.ID % 3).astype(str)))

    levels = {"GRP": ["1", "2", "unknown"]}

    class Grouped(Decay):
        def individual(self, p, cov):
            return {"cl": torch.where(cov.GRP == 2, 2 * p.cl, p.cl) + 0.0 * (cov.GRP == "1")}

    fit = nlme.fit(Grouped(), dataset(table, covariates="GRP", levels=levels), nlme.FO(), progress=False)
    few = table.query("ID == 2").assign(GRP=2)
    whole = fit.predictions
    np.testing.assert_allclose(
        fit.individualise(dataset(few, covariates="GRP")).predictions["PRED"],
        whole[whole["id"] == 2]["PRED"],
        rtol=1e-12,
    )


@pytest.mark.parametrize("solver", [None, nlme.Auto(compile=False)])
def test_a_category_that_changes_within_subjects(solver):
    table = frame(3).assign(SEX=lambda t: np.where(t.TIME > 1.5, "male", "female"))
    data = nlme.Dataset.from_frame(table, covariates=[], time_varying="SEX")
    density = Density(Ode(), data.batch(), nlme.solve.choose_solver(solver) if solver is None else solver)
    states, _ = density.at().observe(torch.zeros(1, 1, 1, 3, dtype=torch.float64))
    found = states["DV"].mean[:, 0, 0, 0].detach().numpy()
    # from the first record at 0.5: 0.3 an hour until the record at 2, 0.6 after it
    np.testing.assert_allclose(found, np.exp(-np.array([0.0, 0.15, 0.45, 1.65])), rtol=1e-6)


def test_levels_are_saved_and_loaded(tmp_path):
    for model in (Decay(nlme.Shift("RACE")), ByName()):
        data = dataset()
        fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        again = nlme.load(fit.save(tmp_path / type(model).__name__), type(model)(*_effects(model)), data)
        assert again.parameters.equals(fit.parameters) and again.predictions.equals(fit.predictions)
        alone = dataset(frame().query("ID == 1"))
        assert again.individualise(alone).predictions.equals(fit.individualise(alone).predictions)
        assert again.model.covariate_levels == fit.model.covariate_levels


def _effects(model):
    return [nlme.Shift(name) for name in model.cl.covariates]


def test_folds_keep_the_names():
    found = nlme.cross_validate(
        ByName(), dataset(), nlme.FO(), folds=3, likelihood=nlme.FO(), progress=False
    ).subjects.set_index("id")["log_likelihood"]
    assert np.isfinite(found).all()


def test_covariates_survive_copies():
    category = Category("SEX", ("f", "m"), torch.tensor([0.0, 1.0]))
    for again in (copy.deepcopy(category), pickle.loads(pickle.dumps(category))):
        assert (again == "m").tolist() == [False, True] and (again != "m").tolist() == [True, False]
    weight = torch.tensor([70.0, 50.0]).as_subclass(NumericCovariate)
    assert type(weight / 70) is torch.Tensor and (weight == 70.0).tolist() == [True, False]
    assert torch.equal(copy.deepcopy(weight), weight.as_subclass(torch.Tensor))
