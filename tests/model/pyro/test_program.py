"""The Pyro program against the library's own density, and Pyro's inference running on it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Everything, Line, everything_data, number

import nlme_torch as nlme
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density

COARSE = nlme.Tsit5(rtol=1e-4, atol=1e-6, compile=False)
THEOPHYLLINE = {
    "a, closed form": nlme.examples.TheophyllineClosedForm,
    "a, equation": nlme.examples.TheophyllineClassical,
    "b": nlme.examples.TheophyllineFourNetworks,
    "c, low rank": lambda: nlme.examples.TheophyllineFourNetworks(nlme.LowRank(2)),
    "c, full": lambda: nlme.examples.TheophyllineFourNetworks(nlme.Full(0.2)),
    "d": nlme.examples.TheophyllineHybrid,
}


@pytest.fixture(autouse=True)
def own_parameters():
    """Pyro keeps parameters, and its random state, in global places."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        yield
    torch.set_rng_state(state)


def effects_of(model, trace):
    """Pyro's ``(*particles, subject, effect)`` as ``(effect, 1, particle, subject)``."""
    parts = [trace.nodes[f"eta_{block.name}"]["value"] for block in model.blocks]
    eta = torch.cat(parts, dim=-1)
    return eta.reshape(-1, *eta.shape[-2:]).permute(2, 0, 1)[:, None]


def values_of(model, trace, particles=1):
    """What the trace says of the parameters, on the estimation scale, ``(particle, *shape)``."""
    values = parameter_values(model, starts=particles)
    for name, component in model.components.items():
        if name not in trace.nodes:
            continue
        drawn = trace.nodes[name]["value"]
        (raw,) = (
            key
            for key in (f"{name}.unconstrained", f"{name}.typical", f"{name}.weights", f"{name}.network.weights")
            if key in values
        )
        drawn = component.transform.inverse(drawn) if hasattr(component, "transform") else drawn
        values[raw] = drawn.reshape(-1, *values[raw].shape[1:]).expand_as(values[raw])
    return values


def library_log_joint(model, data, trace, particles=1):
    density = Density(model, data.batch(), COARSE)
    values = values_of(model, trace, particles)
    return density.at(values).log_joint(effects_of(model, trace))[0].sum(-1) + density.log_prior(values)


def assert_equal(model, data):
    trace = poutine.trace(model.program(data, COARSE)).get_trace()
    expected = library_log_joint(model, data, trace)[0]
    assert torch.isfinite(expected)
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-12, atol=1e-10)
    return trace


@pytest.mark.parametrize("name", THEOPHYLLINE)
def test_log_joint_equals_the_librarys_on_theophylline(name, theophylline):
    model = THEOPHYLLINE[name]()
    trace = assert_equal(model, theophylline)
    assert trace.nodes["conc"]["value"].shape == (11, 12)
    assert ("sigma" in trace.nodes and trace.nodes["sigma"]["type"] == "sample") is name.startswith(("b", "c"))


def test_log_joint_equals_the_librarys_with_every_kind_of_component():
    trace = assert_equal(Everything(), everything_data())
    sampled = {name for name, node in trace.nodes.items() if node["type"] == "sample" and not node["is_observed"]}
    priors = {"ka", "kout", "shift", "drive", "uptake", "sigma_pk"}
    blocks = {"eta_disposition", "eta_individual", "eta_individual_fixed", "eta_z", "eta_uptake", "eta_loss"}
    assert sampled - {"subject", "record", "unsolved"} == priors | blocks


def test_priors_on_typical_values_and_fixed_parameters():
    frame, _ = simulate_lines(subjects=4)
    model = Line(
        a=nlme.Normal(1.0, prior=dist.Normal(0.0, 2.0)),
        sigma=nlme.Positive(0.4, prior=dist.LogNormal(0.0, 1.0), fixed=True),
        full=True,
    )
    trace = assert_equal(model, lines_data(frame))
    assert "sigma" not in trace.nodes


def test_unsolved_subjects_make_the_joint_minus_infinite(theophylline):
    model = nlme.examples.TheophyllineClassical()
    program = model.program(theophylline, COARSE)
    eta = torch.zeros(12, 3, dtype=DOUBLE)
    eta[4, 0] = 2000.0
    trace = poutine.trace(poutine.condition(program, data={"eta_individual": eta})).get_trace()
    assert trace.log_prob_sum() == -math.inf


@pytest.mark.parametrize("make", [Everything, nlme.examples.TheophyllineClosedForm])
def test_vectorised_particles_are_separate_traces(make, theophylline):
    model = make()
    data = everything_data() if make is Everything else theophylline
    program = model.program(data, COARSE)
    with pyro.plate("particles", 3, dim=-3):
        trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    total = sum(
        node["log_prob"].sum(tuple(range(1, node["log_prob"].dim())))
        for node in trace.nodes.values()
        if node["type"] == "sample" and "log_prob" in node and node["log_prob"].dim()
    )
    expected = library_log_joint(model, data, trace, particles=3)
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-8)


def test_nuts_runs(theophylline):
    few = theophylline.subset(theophylline.subjects[:2])
    model = nlme.examples.TheophyllineClosedForm()
    model_with_prior = type("WithPrior", (nlme.examples.TheophyllineClosedForm,), {})()
    model_with_prior.sigma.prior = dist.LogNormal(number(0.0), 0.5)
    sampler = MCMC(NUTS(model_with_prior.program(few)), num_samples=8, warmup_steps=8, disable_progbar=True)
    sampler.run()
    draws = sampler.get_samples()
    assert draws["eta_individual"].shape == (8, 2, 3) and (draws["sigma"] > 0).all()
    assert len(torch.unique(draws["sigma"])) > 1
    assert model.sigma.value.item() == 1.0


def test_svi_climbs_towards_the_marginal_likelihood():
    """A normal guide is exact in each direction here; the bound must stay below the exact log-likelihood."""
    frame, design = simulate_lines(subjects=6, seed=2)
    model = Line(
        b=nlme.Normal(-0.5, nlme.Shift("x", fixed=True), omega=0.3, fixed=True),
        a=nlme.Normal(2.0, omega=0.5, fixed=True),
        sigma=nlme.Positive(0.5, fixed=True),
    )
    (block,) = model.blocks
    block.covariance.requires_grad_(False)
    program = model.program(lines_data(frame))
    guide = AutoNormal(program, init_scale=0.3)
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=2)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    losses = [svi.step() for _ in range(250)]
    exact = sum(
        design.log_marginal(torch.tensor([2.0, -0.5, 0.0]).numpy(), torch.diag(number([0.5, 0.3])).numpy(), 0.5)
    )
    final = -sum(losses[-50:]) / 50
    assert final < exact + 0.3
    # the best factorised normal loses half the log ratio of variances, a few units here
    assert final > exact - 8 and final > -losses[0]


def test_predictive_draws_new_observations(theophylline):
    """Without conditioning, the outcome is sampled, with its error, around the prediction."""
    model = nlme.examples.TheophyllineClosedForm()
    program = poutine.uncondition(model.program(theophylline))
    eta = torch.zeros(600, 12, 3, dtype=DOUBLE)
    draws = Predictive(program, posterior_samples={"eta_individual": eta}, return_sites=("conc",))()["conc"]
    assert draws.shape == (600, 11, 12)
    typical, _ = Density(model, theophylline.batch(), COARSE).at().observe(eta[:1].permute(2, 0, 1)[:, None])
    error = draws - typical["conc"].mean[:, 0, 0]
    assert error.mean().abs() < 0.02 and abs(error.std().item() - 1.0) < 0.02


def test_predictive_in_parallel_equals_one_by_one(theophylline):
    model = nlme.examples.TheophyllineClosedForm()
    eta = 0.3 * torch.randn(4, 1, 12, 3, dtype=DOUBLE)
    program = poutine.uncondition(model.program(theophylline))
    samples = {"eta_individual": eta}
    parallel = Predictive(program, posterior_samples=samples, return_sites=("conc",), parallel=True)()["conc"]
    assert parallel.shape == (4, 11, 12)
    assert torch.isfinite(parallel).all()


def test_two_programs_share_nothing_inside_a_scope(theophylline):
    one, two = nlme.examples.TheophyllineClosedForm(), nlme.examples.TheophyllineClosedForm()
    with torch.no_grad():
        two.v.typical += 1.0
    with pyro.get_param_store().scope():
        poutine.trace(one.program(theophylline)).get_trace()
        assert pyro.param("v.typical").item() == pytest.approx(math.log(32.0))
    with pyro.get_param_store().scope():
        poutine.trace(two.program(theophylline)).get_trace()
        assert pyro.param("v.typical").item() == pytest.approx(math.log(32.0) + 1.0)


def test_a_program_leaves_the_model_alone(theophylline):
    model = nlme.examples.TheophyllineFourNetworks()
    before = {name: value.clone() for name, value in model.named_parameters()}
    poutine.trace(model.program(theophylline, COARSE)).get_trace()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
