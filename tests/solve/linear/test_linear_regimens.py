"""Amounts under a regimen, against doses written out one by one."""

import pytest
import torch
from support.linear_cases import DTYPE, number

import nlme_torch as nlme
from nlme_torch.compartments import OneCompartment, TwoCompartment, amounts
from nlme_torch.errors import SolveError

CLEARANCE, VOLUME, ABSORPTION = number(2.8, 1.0), number(32.0, 10.0), number(1.5, 0.7)
TIMES = number(0.0, 1.0, 5.9, 6.5, 13.0, 24.5, 60.0)


def oral_after(times, given, amount):
    """The Bateman function of one dose, 0 before it."""
    ke, since = CLEARANCE / VOLUME, (times - given).clamp(min=0)[:, None]
    return amount * ABSORPTION / (ABSORPTION - ke) * (torch.exp(-ke * since) - torch.exp(-ABSORPTION * since))


def infused_after(times, given, amount, duration):
    """One infusion into the central compartment."""
    ke, since = CLEARANCE / VOLUME, (times - given).clamp(min=0)
    running, after = since.clamp(max=duration)[:, None], (since - duration).clamp(min=0)[:, None]
    return amount / duration / ke * (1 - torch.exp(-ke * running)) * torch.exp(-ke * after)


def test_repeats_lag_and_bioavailability():
    regimen = nlme.Regimen(100.0, compartment="depot", every=12.0, additional=2) + nlme.Regimen(
        30.0, time=6.0, compartment="central", rate=10.0
    )
    lag, fraction = {"depot": number(0.5, 0.5)}, {"depot": 0.8}
    system = OneCompartment(CLEARANCE, VOLUME, ABSORPTION)
    found = amounts(system, TIMES, regimen, lag=lag, bioavailability=fraction)[:, 1]
    expected = sum(oral_after(TIMES, 12 * repeat + 0.5, 80.0) for repeat in range(3))
    expected = expected + infused_after(TIMES, 6.0, 30.0, 3.0)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_bioavailability_shortens_an_infusion_of_given_rate_and_thins_one_of_given_duration():
    system = OneCompartment(CLEARANCE, VOLUME)
    by_rate = amounts(system, TIMES, nlme.Regimen(30.0, rate=10.0), bioavailability={"central": 0.5})[:, 0]
    assert torch.allclose(by_rate, infused_after(TIMES, 0.0, 15.0, 1.5), rtol=1e-12)
    by_duration = amounts(system, TIMES, nlme.Regimen(30.0, duration=3.0), bioavailability={"central": 0.5})[:, 0]
    assert torch.allclose(by_duration, infused_after(TIMES, 0.0, 15.0, 3.0), rtol=1e-12)


@pytest.mark.parametrize("duration", [0.0, 4.0, 24.0, 30.0])
def test_steady_state_replaces_or_adds(duration):
    system = TwoCompartment(CLEARANCE, VOLUME, 1.0, 20.0)
    repeated = nlme.Regimen(50.0, time=-2400.0, every=12.0, additional=200 + 3, duration=duration)
    earlier = nlme.Regimen(70.0, time=-1.0)
    for kind, before in ((1, 0.0), (2, 1.0)):
        settled = nlme.Regimen(50.0, every=12.0, additional=3, duration=duration, steady_state=kind)
        found = amounts(system, TIMES, earlier + settled)
        expected = amounts(system, TIMES, repeated) + before * amounts(system, TIMES, earlier)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_the_lag_has_a_gradient():
    lag = number(0.5, 0.4).requires_grad_()
    system = OneCompartment(CLEARANCE, VOLUME, ABSORPTION)

    def central(lag):
        return amounts(system, TIMES[1:], nlme.Regimen(100.0, compartment=1), lag={"depot": lag})[:, 1]

    assert torch.autograd.gradcheck(central, lag)


def test_doses_that_cannot_be_meant():
    system = OneCompartment(CLEARANCE, VOLUME, ABSORPTION)
    for regimen, message in (
        (nlme.Regimen(1.0, compartment="gut"), "'gut'.*depot, central"),
        (nlme.Regimen(1.0, compartment=3), "3.*depot, central"),
        (nlme.Regimen(1.0, duration="modelled"), "model"),
        (nlme.Regimen(0.0, rate=1.0, steady_state=True), "without end"),
        (nlme.Regimen(1.0, every=2.0, duration=300.0, steady_state=True), "longer than 100 intervals"),
    ):
        with pytest.raises(SolveError, match=message):
            amounts(system, TIMES, regimen)
    with pytest.raises(SolveError, match="'gut'"):
        amounts(system, TIMES, nlme.Regimen(1.0), lag={"gut": 1.0})
    assert amounts(system, TIMES, nlme.Regimen(1.0)).dtype is DTYPE
