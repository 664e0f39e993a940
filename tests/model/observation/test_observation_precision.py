"""Log densities of every outcome with first and second derivatives, against sixty and more digits of mpmath.

Errors are compared with the largest term that enters, so that a value near zero that is a difference of two densities
of size one is not asked for digits that its arguments do not have.
"""

import math

import mpmath as mp
import pytest
import torch
from support.small_models import DOUBLE
from torch.autograd import grad

from nlme_torch import observation
from nlme_torch.model.observation.gamma_functions import deviance, log_gamma_ratio, stirling_remainder
from nlme_torch.model.observation.logarithms import log1mexp, mean_log1p, shortfall_log1p

mp.mp.dps = 60


def ours(log_prob, point):
    """Value, and first and second derivatives with respect to a relative change of each argument."""
    changes = [torch.zeros((), dtype=DOUBLE, requires_grad=True) for _ in point]
    moved = [x * change.exp() if x else change for x, change in zip(point, changes, strict=True)]
    value = log_prob(*moved)
    slopes = grad(value, changes, create_graph=True, materialize_grads=True)
    bends = [
        grad(slope, change, retain_graph=True, materialize_grads=True)[0] if slope.requires_grad else 0 * change
        for slope, change in zip(slopes, changes, strict=True)
    ]
    return value.item(), [x.item() for x in slopes], [x.item() for x in bends]


def theirs(log_prob, point, digits):
    with mp.workdps(digits):
        exact = [mp.mpf(x) for x in point]
        value, step = log_prob(*exact), mp.mpf(10) ** (-digits // 4)
        slopes, bends = [], []
        for place, x in enumerate(exact):
            low, high = (
                log_prob(*exact[:place], x * mp.exp(change) if x else change, *exact[place + 1 :])
                for change in (-step, step)
            )
            slopes.append((high - low) / (2 * step))
            bends.append((high - 2 * value + low) / step**2)
        return float(value), [float(x) for x in slopes], [float(x) for x in bends]


def check(log_prob, reference, point, rtol=1e-11, digits=60, scale=1.0, bend=100.0):
    """Compare value and derivatives.

    Args:
        log_prob: Of tensors.
        reference: The same of mpmath's numbers.
        point: The arguments.
        rtol: Relative error.
        digits: Digits of the reference.
        scale: Size of the terms that make up the value, where they cancel by nature.
        bend: How much more a second derivative may lose.
    """
    found, expected = ours(log_prob, point), theirs(reference, point, digits)
    assert found[0] == pytest.approx(expected[0], rel=rtol, abs=rtol * scale), (point, "value")
    for place in range(len(point)):
        slope, bent = expected[1][place], expected[2][place]
        assert found[1][place] == pytest.approx(slope, rel=rtol, abs=rtol * scale), (point, place, "slope")
        tolerance = rtol * (scale + bend * abs(slope))
        assert found[2][place] == pytest.approx(bent, rel=bend * rtol, abs=tolerance), (point, place, "bend")


def tensor(x):
    return torch.as_tensor(x, dtype=DOUBLE)


# ------------------------------------------------------------------ pieces


@pytest.mark.parametrize("x", [-0.999, -0.26, -0.25, -1e-3, -1e-9, -1e-200, 1e-300, 1e-12, 1e-5, 0.2, 0.3, 5.0, 1e6])
def test_what_is_left_of_logarithms(x):
    check(mean_log1p, lambda x: mp.log1p(x) / x, (x,), rtol=1e-13)
    check(shortfall_log1p, lambda x: (x - mp.log1p(x)) / x**2, (x,), rtol=1e-13, digits=700 if abs(x) < 1e-50 else 60)


@pytest.mark.parametrize("x", [-1e-140, -1e-12, -0.3, -0.69, -0.71, -5.0, -50.0, -700.0])
def test_the_logarithm_of_one_less_an_exponential(x):
    check(log1mexp, lambda x: mp.log(-mp.expm1(x)), (x,), rtol=1e-13, digits=700)


@pytest.mark.parametrize("x", [10.0, 13.0, 1e3, 1e15])
@pytest.mark.parametrize("shift", [0.5, -0.9, 3.0, 40.0])
def test_a_ratio_of_gamma_functions(x, shift):
    def reference(inverse):
        return mp.loggamma(1 / inverse + shift) - mp.loggamma(1 / inverse) + shift * mp.log(inverse)

    check(lambda inverse: log_gamma_ratio(inverse, tensor(shift)), reference, (1 / x,), rtol=1e-12, digits=100)


@pytest.mark.parametrize("x", [10.0, 11.0, 40.0, 1e3])
def test_what_is_left_of_stirling_s_formula(x):
    exact = 1 / mp.mpf(1 / x)
    left = mp.loggamma(exact) - (exact - mp.mpf(1) / 2) * mp.log(exact) + exact - mp.log(2 * mp.pi) / 2
    assert stirling_remainder(tensor(1 / x)).item() == pytest.approx(float(left), rel=1e-14, abs=0)


@pytest.mark.parametrize("mean", [1e-140, 1e-3, 0.9, 1.0, 1.0 + 1e-9, 1.3, 700.0])
@pytest.mark.parametrize("count", [1.0, 30.0, 1e6])
def test_the_deviance_of_a_count(count, mean):
    def reference(m):
        return count * mp.log(count / m) - (count - m)

    check(lambda m: deviance(tensor(count), m), reference, (mean * count,), rtol=1e-12, digits=100)


# ------------------------------------------------------------------ counts

COUNTS = [0.0, 2.0, 9.0, 21.0, 1e6]


@pytest.mark.parametrize("mean", [1e-8, 4.0, 1e6, 1.02e6, 1e9])
@pytest.mark.parametrize("count", COUNTS)
def test_poisson(count, mean):
    def reference(m):
        return count * mp.log(m) - m - mp.loggamma(count + 1)

    check(lambda m: observation.Poisson(m).log_prob(tensor(count)), reference, (mean,), rtol=1e-13)


@pytest.mark.parametrize("dispersion", [1e-140, 1e-15, 1e-9, 0.0999, 0.1001, 30.0, 1e140])
@pytest.mark.parametrize("mean", [1e-8, 4.0, 1.02e6])
@pytest.mark.parametrize("count", COUNTS)
def test_negative_binomial(count, mean, dispersion):
    def reference(m, d):
        if d < 1e-100:
            return count * mp.log(m) - m - mp.loggamma(count + 1)
        r = 1 / d
        binomial = mp.loggamma(count + r) - mp.loggamma(r) - mp.loggamma(count + 1)
        return binomial + count * mp.log(d * m / (1 + d * m)) - r * mp.log1p(d * m)

    scale = 1.0 + (count if dispersion > 0.01 else 0.0) * 1e-2
    check(
        lambda m, d: observation.NegativeBinomial(m, d).log_prob(tensor(count)),
        reference,
        (mean, dispersion),
        rtol=1e-12,
        digits=80,
        scale=scale,
    )


def test_a_negative_binomial_without_dispersion_is_a_poisson_distribution():
    mean, count = tensor([0.2, 3.0, 40.0]), tensor([0.0, 5.0, 31.0])
    none = observation.NegativeBinomial(mean, 0.0)
    torch.testing.assert_close(none.log_prob(count), observation.Poisson(mean).log_prob(count), rtol=1e-13, atol=0.0)
    assert none.expand((2, 3)).sample((4,)).shape == (4, 2, 3)


@pytest.mark.parametrize("dispersion", [0.0, 0.04, 2.0])
def test_draws_of_a_negative_binomial(dispersion):
    torch.manual_seed(3)
    law = observation.NegativeBinomial(tensor(6.0), dispersion)
    drawn = law.sample((40_000,))
    assert drawn.mean().item() == pytest.approx(6.0, abs=5 * (law.variance / 40_000).sqrt().item())
    assert drawn.var().item() == pytest.approx(law.variance.item(), rel=0.08)
    assert (drawn == 0).double().mean().item() == pytest.approx(law.log_prob(tensor(0.0)).exp().item(), abs=0.008)


# ------------------------------------------------------------------ choices


@pytest.mark.parametrize("logit", [-1e6, -800.0, -40.0, -1e-9, 0.0, 0.3, 36.0, 1e3])
def test_binary_and_binomial(logit):
    def log_sigmoid(x):
        return -mp.log1p(mp.exp(-x))

    for value in (0.0, 1.0):
        check(
            lambda x, value=value: observation.Bernoulli(x).log_prob(tensor(value)),
            lambda x, value=value: log_sigmoid((2 * value - 1) * x),
            (logit,),
            rtol=1e-13,
            digits=400,
        )
    for count, tries in ((0, 1), (5, 10), (10, 10), (3e5, 1e6)):
        ways = mp.log(mp.binomial(tries, count))
        check(
            lambda x, n=tries, k=count: observation.Binomial(tensor(n), x).log_prob(tensor(k)),
            lambda x, n=tries, k=count, ways=ways: ways + k * log_sigmoid(x) + (n - k) * log_sigmoid(-x),
            (logit,),
            rtol=1e-13,
            digits=400,
            scale=1.0 + 20 * tries,
        )


@pytest.mark.parametrize("location", [-1e3, -30.0, 0.0, 0.4, 2.0, 1e3])
@pytest.mark.parametrize("gap", [1e-12, 0.3, 40.0])
@pytest.mark.parametrize("score", [0, 1, 2])
def test_ordered_categories(location, gap, score):
    def log_prob(where, first, step):
        points = [first, first + step]
        return observation.OrderedCategorical(where, points).log_prob(tensor(float(score)))

    def reference(where, first, step):
        below = [mp.mpf(0), *(1 / (1 + mp.exp(where - c)) for c in (first, first + step)), mp.mpf(1)]
        return mp.log(below[score + 1] - below[score])

    # first + step is rounded before the difference is taken
    rtol = 1e-3 if gap < 1e-6 and score == 1 else 1e-12
    check(log_prob, reference, (location, 0.5, gap), rtol=rtol, digits=1000)


# ------------------------------------------------------------------ continuous outcomes


def normal_density(z):
    return -z * z / 2 - mp.log(2 * mp.pi) / 2


# the parameters in terms of the prediction
ERRORS = {
    "additive": (observation.Additive, lambda f, a: a, lambda f: (0.3 * f,)),
    "proportional": (observation.Proportional, lambda f, b: b * abs(f), lambda f: (0.3,)),
    "combined1": (observation.Combined1, lambda f, a, b: a + b * abs(f), lambda f: (0.2 * f, 0.3)),
    "combined2": (observation.Combined2, lambda f, a, b: mp.sqrt(a * a + (b * f) ** 2), lambda f: (0.2 * f, 0.3)),
    "power": (observation.PowerError, lambda f, b, c: b * abs(f) ** c, lambda f: (0.3 * f**0.3, 0.7)),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("prediction", [-1e-6, 1e-140, 0.7, 1e140])
@pytest.mark.parametrize("size", [1e-3, 1.0])
@pytest.mark.parametrize("error", [-1e3, 0.0, 0.5])
def test_normal_errors(name, prediction, size, error):
    kind, deviation, parameters = ERRORS[name]
    point = (prediction, *(size * x if x != 0.7 else x for x in parameters(abs(prediction))))
    value = prediction + error * float(deviation(mp.mpf(point[0]), *(mp.mpf(x) for x in point[1:])))

    def reference(f, *rest):
        scale = deviation(f, *rest)
        return normal_density((value - f) / scale) - mp.log(scale)

    # the residual itself is a difference
    digits = min(1.0, abs(value - prediction) / max(abs(value), 1e-300)) or 1.0
    check(
        lambda f, *rest: kind(f, *rest).log_prob(tensor(value)),
        reference,
        point,
        rtol=1e-12 / max(digits, 1e-4),
        digits=120,
        scale=1.0 + error**2,
    )


@pytest.mark.parametrize("prediction", [1e-140, 3.0, 1e140])
@pytest.mark.parametrize("b", [1e-3, 0.4, 50.0])
@pytest.mark.parametrize("error", [-200.0, 0.1, 200.0])
def test_log_normal_errors(prediction, b, error):
    value = math.exp(max(min(math.log(prediction) + error * b, 700.0), -700.0))

    def reference(f, b):
        return normal_density((mp.log(value) - mp.log(f)) / b) - mp.log(b) - mp.log(value)

    check(
        lambda f, b: observation.LogNormal(f, b).log_prob(tensor(value)),
        reference,
        (prediction, b),
        rtol=1e-9 if b < 0.01 else 1e-11,
        scale=1e3 + error**2,
    )


def student_density(z, df):
    return (
        mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(mp.pi * df) / 2 - (df + 1) / 2 * mp.log1p(z * z / df)
    )


@pytest.mark.parametrize("df", [1e-6, 0.3, 1.0, 4.0, 19.9, 20.1, 300.0, 1e7, 1e15])
@pytest.mark.parametrize("z", [-1e9, -30.0, 0.0, 0.4, 1e3])
def test_student(df, z):
    def reference(f, s, df):
        return student_density((z - f) / s, df) - mp.log(s)

    check(
        lambda f, s, df: observation.StudentT(f, s, df).log_prob(tensor(z)),
        reference,
        (0.0, 1.5, df),
        rtol=1e-12,
        digits=100,
    )


# ------------------------------------------------------------------ tails

TAILS = [-1e8, -1e3, -40.0, -17.0, -15.0, -2.0, 0.0, 1e-3, 0.99, 1.01, 6.0, 15.9, 16.1, 38.0, 1e3, 1e6]


def exact_sf(z):
    return mp.log(mp.erfc(z / mp.sqrt(2)) / 2)


def asymptotic(z):
    """Log P(Z > z) of a normal far out, where a continued fraction is quick."""
    if z < 30:
        return exact_sf(z)
    fraction = z
    for k in range(400, 0, -1):
        fraction = z + k / fraction
    return normal_density(z) - mp.log(fraction)


@pytest.mark.parametrize("z", TAILS)
@pytest.mark.parametrize("side", [1, -1])
def test_normal_censored_on_a_side(z, side):
    code, limit = torch.tensor(side), tensor(-side * math.inf)

    def log_prob(f, s):
        return observation.Censored(observation.Additive(f, s), code, limit).log_prob(tensor(0.0))

    def reference(f, s):
        return asymptotic(side * f / s) if side * f / s > -40 else mp.mpf(0)

    check(log_prob, reference, (z, 1.0), rtol=1e-12)


def exact_student_sf(z, df):
    x = df / (df + z * z)
    tail = mp.betainc(df / 2, mp.mpf(1) / 2, 0, x, regularized=True) / 2
    return mp.log(tail if z > 0 else 1 - tail)


@pytest.mark.parametrize("df", [0.2, 1.0, 3.3, 60.0, 5e3])
@pytest.mark.parametrize("z", [-30.0, -0.9, 0.3, 0.999, 1.001, 5.0, 1e3])
def test_student_censored_on_a_side(z, df):
    def log_prob(f, s, df):
        base = observation.StudentT(f, s, df)
        return observation.Censored(base, torch.tensor(1), tensor(-math.inf)).log_prob(tensor(0.0))

    with mp.workdps(40):
        check(log_prob, lambda f, s, df: exact_student_sf(f / s, df), (z, 1.0, df), rtol=1e-10, digits=40)


def test_a_student_tail_far_out_tends_to_the_normal_one():
    """Where mpmath's incomplete beta does not converge."""
    z, df = tensor([0.5, 3.0, 20.0, 300.0]), tensor(1e13)
    found, normal = (
        observation.Censored(base, torch.tensor(1), tensor(-math.inf)).log_prob(tensor(0.0))
        for base in (observation.StudentT(z, tensor(1.0), df), observation.Additive(z, 1.0))
    )
    torch.testing.assert_close(found, normal, rtol=1e-8, atol=1e-10)


def exact_interval(low, high):
    """Log P(low < Z < high) from whichever side does not cancel, with digits to spare."""
    if low < 0 < high:
        return mp.log(mp.ncdf(high) - mp.ncdf(low))
    if high <= 0:
        low, high = -high, -low
    return mp.log(mp.exp(asymptotic(low)) - mp.exp(asymptotic(high)))


INTERVALS = [
    (-0.3, 1.0), (-0.3, 1e-9), (4.0, 1e-14), (5.0, 1e-5), (5.0, 0.05), (5.0, 0.4), (5.0, 30.0), (-9.0, 3.0),
    (1e3, 1e-10), (1e3, 1e-3), (1e3, 1.0), (-1e3, 10.0), (1e6, 1e-12), (1e6, 3.0), (-20.0, 19.0), (-3.0, 6.0),
]  # fmt: skip


@pytest.mark.parametrize("start, width", INTERVALS)
def test_normal_intervals(start, width):
    """The prediction is at zero and the value at the end that it is counted from, so that the width is exact."""

    def log_prob(f, s):
        base = observation.Additive(f, s)
        return observation.Censored(base, torch.tensor(-1), tensor(width)).log_prob(tensor(0.0))

    def reference(f, s):
        return exact_interval(-f / s, (width - f) / s)

    check(log_prob, reference, (-start, 1.0), rtol=2e-12, digits=80)


@pytest.mark.parametrize("start, width", [(-0.3, 1e-9), (5.0, 1e-5), (5.0, 0.4), (-9.0, 3.0), (1e3, 900.0)])
@pytest.mark.parametrize("df", [1.0, 4.5])
def test_student_intervals(start, width, df):
    def log_prob(f, s, df):
        base = observation.StudentT(f, s, df)
        return observation.Censored(base, torch.tensor(-1), tensor(width)).log_prob(tensor(0.0))

    def reference(f, s, df):
        return mp.log(mp.quad(lambda z: mp.exp(student_density(z, df)), [-f / s, (width / 2 - f) / s, (width - f) / s]))

    check(log_prob, reference, (-start, 1.0, df), rtol=1e-9, digits=45)


@pytest.mark.parametrize("prediction", [-1e6, -1e3, -1.0, 0.0, 20.0, 1e3])
@pytest.mark.parametrize("value", [1e-9, 4.0])
def test_truncated(prediction, value):
    def law(f, s):
        return observation.Truncated(observation.Additive(f, s))

    def density(f, s):
        return normal_density((value - f) / s) - mp.log(s) - asymptotic(-f / s)

    check(lambda f, s: law(f, s).log_prob(tensor(value)), density, (prediction, 1.0), rtol=1e-11, digits=100)

    def above(f, s):
        return asymptotic((value - f) / s) - asymptotic(-f / s)

    check(lambda f, s: law(f, s).log_sf(tensor(value)), above, (prediction, 1.0), rtol=1e-11, digits=100)

    def below(f, s):
        return exact_interval(-f / s, (value - f) / s) - asymptotic(-f / s)

    check(lambda f, s: law(f, s).log_cdf(tensor(value)), below, (prediction, 1.0), rtol=1e-11, digits=100)


@pytest.mark.parametrize("rise", [1e-140, 1e-12, 0.4, 30.0, 700.0])
@pytest.mark.parametrize("event", [0.0, 1.0])
def test_events(rise, event):
    def interval(rise):
        return mp.log(-mp.expm1(-rise)) if event else -rise

    check(lambda x: observation.IntervalCensoredEvent(x).log_prob(tensor(event)), interval, (rise,), digits=700)

    def exact(hazard, cumulative):
        return (mp.log(hazard) if event else 0) - cumulative

    check(lambda h, c: observation.TimeToEvent(h, c).log_prob(tensor(event)), exact, (rise, 2.0), digits=700)
