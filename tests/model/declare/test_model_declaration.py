"""What a subclass of Model may look like, and the messages for everything else: what, where, what to do."""

import copy
import subprocess
import sys

import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.small_models import DOUBLE, Everything, Line, everything_data, number
from torch import nn

import nlme_torch as nlme
from nlme_torch.model.density.density import Density

TABLE = pd.DataFrame(
    {"ID": [1, 1, 2, 2], "TIME": [0.0, 1.0, 0.5, 2.0], "DV": [3.0, 2.0, 4.0, 1.0], "WT": [70.0, 70.0, 50.0, 50.0]}
)
DATA = nlme.Dataset.from_frame(TABLE)


class Decay(nlme.Model):
    """A correct model that the tests below break in one place each."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.k, self.v = nlme.LogNormal(0.3), nlme.LogNormal(2.0)
        self.sigma = nlme.Positive(0.5)
        self.declare()

    def declare(self):
        pass

    def initial(self, p):
        return (8.0,)

    def dynamics(self, t, y, p):
        return (-p.k * y.central,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


def broken(**members):
    return type("Broken", (Decay,), members)


def density(model, data=DATA):
    return Density(model, data.batch(), nlme.Tsit5(compile=False))


def test_the_correct_model_is_accepted():
    model = Decay()
    assert model.has_dynamics and not model.has_network and model.covariates == ()
    value = density(model).at().log_joint(torch.zeros(2, 1, 1, 2, dtype=DOUBLE))
    assert torch.isfinite(value).all()


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("central", lambda: nlme.Positive(1.0), "'central' is both a state and a parameter; rename one"),
        ("k", lambda: nlme.Positive(1.0), "'k' is declared twice"),
        ("dynamics", lambda: nlme.Positive(1.0), "'dynamics' is a name that Model itself uses"),
        ("states", lambda: nlme.Positive(1.0), "'states' is a name that Model itself uses"),
        ("type", lambda: nlme.Positive(1.0), "'type' is a name that Model itself uses"),
        ("blocks", lambda: nlme.Omega("k", "v"), "'blocks' is a name that Model itself uses"),
        ("sigma", lambda: nlme.Omega("k", "v"), "'sigma' is declared twice"),
        (
            "_net",
            lambda: nlme.MLP(1, 2, 1),
            "'_net': names of parameters and networks may not begin with an underscore",
        ),
        ("nets", lambda: [nlme.MLP(1, 2, 1), nlme.MLP(1, 2, 1)], "'nets' is a collection; assign each"),
        ("nets", lambda: {"a": nlme.Positive(1.0)}, "'nets' is a collection"),
        ("nets", lambda: nn.ModuleList([nn.Linear(1, 1)]), "'nets' is a collection"),
        ("rate", lambda: nn.Parameter(torch.ones(())), "'rate' is an nn.Parameter; declare it as nlme.Real"),
    ],
)
def test_names_that_clash_or_would_be_overlooked(name, value, words):
    with pytest.raises(nlme.ModelError, match=words):
        broken(declare=lambda self: setattr(self, name, value()))()


def test_every_state_and_omega_clash_is_found_in_either_order():
    def declare(self):
        self.pair = nlme.Omega("k", "v")
        self.pair = nlme.Positive(1.0)

    with pytest.raises(nlme.ModelError, match="'pair' is declared twice"):
        broken(declare=declare)()


def test_declaring_after_construction_is_refused():
    model = Decay()
    with pytest.raises(nlme.ModelError, match="'extra' is assigned to a finished model; declare it in __init__"):
        model.extra = nlme.LogNormal(1.0)


def test_forgetting_super_init_says_so():
    class Hasty(Decay):
        def __init__(self):
            self.k = nlme.LogNormal(1.0)

    with pytest.raises(nlme.ModelError, match=r"call super\(\).__init__\(\) before assigning 'k'"):
        Hasty()


@pytest.mark.parametrize(
    "states, words",
    [
        (("central", "central"), "names a state twice"),
        ((), "dynamics but no states"),
        ("central", r"states must be a tuple of names such as \('central',\), got 'central'"),
        (("class",), "state 'class' is not a valid name"),
        (("1st",), "state '1st' is not a valid name"),
    ],
)
def test_states_must_be_a_tuple_of_names(states, words):
    with pytest.raises(nlme.ModelError, match=words):
        broken(states=states)()


@pytest.mark.parametrize("name", ["type", "values", "a.b", "half"])
def test_covariates_may_have_any_name(name):
    class Named(Line):
        def __init__(self):
            super().__init__(b=nlme.Normal(0.0, nlme.Shift(name, coefficient=0.5)))

    data = nlme.Dataset.from_frame(TABLE.rename(columns={"WT": name}), covariates=[name])
    mean = density(Named(), data).at().mean
    torch.testing.assert_close(mean[1, 0], number([35.0, 25.0]))


# ------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    "members, words",
    [
        ({"observe": nlme.Model.observe}, r"Broken has no observe\(t, y, p\)"),
        ({"dynamics": nlme.Model.dynamics}, "neither dynamics nor compartments nor predict; write exactly one"),
        ({"predict": lambda self, t, p, cov: p.v}, "both dynamics and predict; write exactly one"),
        ({"dynamics": lambda self, t, y: (0.0,)}, r"Broken.dynamics must take 3 arguments beside self, not \(t, y\)"),
        ({"initial": lambda self: (0.0,)}, "Broken.initial must take 1 arguments"),
        ({"observe": lambda self, t, y, p, cov: {}}, "Broken.observe must take 3 arguments"),
        ({"individual": lambda self, p: {}}, "Broken.individual must take 2 arguments"),
    ],
)
def test_methods_are_checked_at_construction(members, words):
    with pytest.raises(nlme.ModelError, match=words):
        broken(**members)()


@pytest.mark.parametrize(
    "members, words",
    [
        (
            {"dynamics": lambda self, t, y, p: (-p.k * y.central, 0.0)},
            "dynamics returned 2 values for the 1 states central",
        ),
        ({"initial": lambda self, p: (8.0, 0.0)}, "initial returned 2 values for the 1 states central"),
        (
            {"initial": lambda self, p: 8.0},
            r"initial must return a tuple with one value per state \('central',\), got float",
        ),
        ({"dynamics": lambda self, t, y, p: None}, "dynamics must return a tuple.*got NoneType"),
        (
            {"dynamics": lambda self, t, y, p: (None,)},
            "dynamics returned a NoneType for state 'central'; return a number",
        ),
        ({"initial": lambda self, p: (1j,)}, "initial returned a complex value for state 'central'"),
        (
            {"dynamics": lambda self, t, y, p: (y.central * 1j,)},
            "dynamics returned a complex value for state 'central'",
        ),
        (
            {"dynamics": lambda self, t, y, p: (torch.ones(7, dtype=DOUBLE),)},
            r"dynamics returned shape \(7,\) for state 'central'",
        ),
        (
            {"initial": lambda self, p: (torch.ones(3, 1, 1, 2, dtype=DOUBLE),)},
            r"initial returned shape \(3, 1, 1, 2\) for state 'central'",
        ),
        ({"dynamics": lambda self, t, y, p: (-p.ke * y.central,)}, "p has no 'ke'; it has k, sigma, v"),
        ({"individual": lambda self, p, cov: {"w": cov.AGE}}, "the data have no covariate 'AGE'; they have WT"),
        ({"individual": lambda self, p, cov: None}, "individual must return a dict of name to value, got NoneType"),
        (
            {"individual": lambda self, p, cov: {"d": {"k": p.k}}},
            "individual returned a dict for 'd'; return a tensor, a number or a tuple",
        ),
        ({"individual": lambda self, p, cov: {"d": (p.k, 1.0)}}, "individual returned a tuple for 'd'"),
        ({"observe": lambda self, t, y, p: dist.Normal(y.central, 1.0)}, "observe must return a dict .* got Normal"),
        (
            {"observe": lambda self, t, y, p: {"conc": dist.Normal(y.central, 1.0)}},
            "observe returns outcome 'conc', which the data lack; they have 'DV'. Rename it",
        ),
        ({"observe": lambda self, t, y, p: {}}, "outcomes that observe does not return: 'DV'. Add them"),
        ({"observe": lambda self, t, y, p: {"DV": y.central}}, "outcome 'DV' must be a distribution, got Tensor"),
        (
            {"observe": lambda self, t, y, p: {"DV": dist.Normal(y.central, 1.0).to_event(1)}},
            "Independent over vectors of shape",
        ),
        (
            {"observe": lambda self, t, y, p: {"DV": dist.Normal(y.central[None], 1.0)}},
            "not one number per record and subject",
        ),
        (
            {"observe": lambda self, t, y, p: {"DV": dist.Normal(y.central, -p.sigma)}},
            "outcome 'DV': scale of Normal is -0.5 for subject 1 at time 0, but must satisfy GreaterThan",
        ),
        (
            {"observe": lambda self, t, y, p: {"DV": dist.Beta(p.k, p.v)}},
            "outcome 'DV' is 3 for subject 1 at time 0, which a Beta excludes .*remove the observation or "
            "choose another",
        ),
    ],
)
def test_user_code_is_checked_before_any_long_work(members, words):
    with pytest.raises(nlme.ModelError, match=words):
        density(broken(**members)())


def test_a_network_called_with_the_wrong_number_of_inputs_is_found():
    def declare(self):
        self.net = nlme.MLP(2, 2, 1)

    with pytest.raises(nlme.ModelError, match="takes 2 inputs but was called with 1"):
        density(broken(declare=declare, dynamics=lambda self, t, y, p: (p.net(y.central),))())


def test_invalid_spread_at_an_unobserved_record_is_nobodys_business():
    """A proportional error is degenerate before the drug arrives; where nothing was observed that does no harm."""
    frame = TABLE.assign(DV=[None, 2.0, 4.0, 1.0], EVID=0, MDV=[1, 0, 0, 0])
    late = broken(
        initial=lambda self, p: (0.0,),
        dynamics=lambda self, t, y, p: (1.0 - p.k * y.central,),
        observe=lambda self, t, y, p: {"DV": dist.Normal(y.central / p.v, p.sigma * y.central)},
    )()
    data = nlme.Dataset.from_frame(frame.assign(TIME=[0.0, 1.0, 0.5, 2.0]).iloc[:2])
    assert torch.isfinite(density(late, data).at().log_joint(torch.zeros(2, 1, 1, 1, dtype=DOUBLE))).all()
    observed = nlme.Dataset.from_frame(TABLE)
    with pytest.raises(nlme.ModelError, match="scale of Normal is 0 for subject 1 at time 0"):
        density(late, observed)


# ------------------------------------------------------------------ the data's side


def test_a_missing_covariate_names_the_parameter():
    model = Line(b=nlme.Normal(0.0, nlme.Power("AGE", ref=40.0)))
    with pytest.raises(
        nlme.ModelError, match=r"Power\('AGE'\) of 'b': the data have no covariate 'AGE'; they have 'WT'"
    ):
        density(model)
    assert model.covariates == ("AGE",)


def test_a_power_of_a_covariate_that_is_not_positive_names_the_subject():
    model = Line(b=nlme.Normal(0.0, nlme.Power("WT", ref=70.0)))
    data = nlme.Dataset.from_frame(TABLE.assign(WT=[70.0, 70.0, 0.0, 0.0]))
    with pytest.raises(
        nlme.ModelError, match="a power needs positive values, but subject 2 has 0; correct it, or use nlme.Shift"
    ):
        density(model, data)


def test_doses_that_a_closed_form_cannot_see_are_refused():
    doses = nlme.Dataset.from_frame(
        TABLE.assign(AMT=[100.0, 0.0, 100.0, 0.0], DV=[None, 2.0, None, 1.0]), covariates=["WT"]
    )
    with pytest.raises(
        nlme.ModelError, match="dosing events, which predict does not see; write the model with dynamics"
    ):
        density(Line(b=nlme.Normal(0.0, omega=1.0)), doses)


def test_a_covariate_that_changes_within_subjects_has_no_declared_effect():
    data = nlme.Dataset.from_frame(TABLE.assign(WT=[70.0, 71.0, 50.0, 52.0]), time_varying=["WT"])
    density(Decay(), data)  # not used: no harm
    message = r"Shift\('WT'\) of 'b': the covariate changes .* compute the parameter from cov.WT in individual"
    with pytest.raises(nlme.ModelError, match=message):
        density(Line(b=nlme.Normal(0.0, nlme.Shift("WT"))), data)


# ------------------------------------------------------------------ models as objects


def test_two_instances_and_a_copy_share_nothing():
    one, two = Everything(), Everything()
    copied = copy.deepcopy(one)
    for other in (two, copied):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(a.data_ptr() != b.data_ptr() for a, b in pairs)
    with torch.no_grad():
        copied.ka.typical += 1.0
    data = everything_data()
    eta = torch.zeros(one.n_effects, 1, 1, data.n_subjects, dtype=DOUBLE)
    before = density(one, data).at().log_joint(eta)
    assert not torch.equal(density(copied, data).at().log_joint(eta), before)
    assert torch.equal(density(two, data).at().log_joint(eta), before)


def test_initialise_redraws_networks_reproducibly_and_nothing_else():
    model = Everything()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.initialise(7)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"drive.weights", "uptake.network.weights", "loss.network.weights"}
    assert torch.equal(Everything().initialise(7).drive.weights, model.drive.weights)
    # equal networks under different names start differently
    assert not torch.equal(model.uptake.network.weights, model.loss.network.weights)


def test_any_module_becomes_a_network_of_the_model():
    def declare(self):
        self.net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))

    model = broken(declare=declare, dynamics=lambda self, t, y, p: (-p.k * y.central + 0.1 * p.net(y.central),))()
    assert model.has_network and list(model.components) == ["k", "v", "sigma", "net"]
    assert torch.isfinite(density(model).at().log_joint(torch.zeros(2, 3, 1, 2, dtype=DOUBLE))).all()


def test_summary_names_everything():
    text = str(Everything().summary(everything_data()))
    for word in (
        "depot, central, effect",
        "5 subjects",
        "15 random effects per subject",
        "Gamma(2, 3)",
        "L2(0.5)",
        "LowRank",
        "Full",
        "individual_fixed",
        "positive",
        "WT",
        "LogNormal(0, 0.5)",
    ):
        assert word in text, word
    html = Everything().summary()._repr_html_()
    assert html.count("<table") == 2


UNCHECKED = """
import nlme_torch as nlme, pyro.distributions as dist
def refused(make, word):
    try:
        make()
    except nlme.ModelError as error:
        assert word in str(error), error
    else:
        raise AssertionError(word)
refused(lambda: nlme.Omega("a", structure=0.3), "unknown structure 0.3")
refused(lambda: nlme.Omega("a", structure="blocked"), "unknown structure 'blocked'")
refused(lambda: nlme.RandomWeights(nlme.MLP(1, 2, 1), omega=0.3), "omega must be Scalar, Diagonal, Full, Fixed")
refused(lambda: nlme.LogNormal(1.0, "WT"), "covariate effects are nlme.Power or nlme.Shift, got 'WT'")
refused(lambda: nlme.Positive(1.0, prior=0.5), "prior must be a torch or pyro distribution")
assert nlme.Power("WT", ref=70).ref == 70.0
print("all refused")
"""


def test_wrong_types_are_refused_without_a_type_checker_too():
    """The suite runs under beartype, users do not: these messages are theirs."""
    done = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True)
    assert done.stdout.strip() == "all refused", done.stderr
