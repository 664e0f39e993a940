"""How fast is a solve, and a gradient, at equal achieved error?

    python benchmarks/solve.py --json FILE [--sizes 12,600,6000,100000] [--problems smooth,network,stiff]

Every method runs at several tolerances. Its error is the largest, over subjects, states and records, of the
difference from a solution at rtol 1e-12, relative to the subject's largest value of that state. Times are seconds
of one core (CPU time, one thread, median of repeats), so that other work on the machine distorts them less.

Keys: ``<problem>_<subjects>_<method>_ms`` and ``_error`` at the default tolerance (rtol 1e-6);
``_gradient_ms`` for a solve and the gradient of the sum of squared states with respect to all parameters;
``<problem>_<subjects>_ratio`` and ``_gradient_ratio``: torchdiffeq's time over that of the library's default choice
(Tsit5; Auto on the stiff problem), each at its cheapest tolerance (a grid of decades) with error below 1e-5;
``<problem>_<subjects>_floor_ms``: as many evaluations of the compiled vector field as the default run needs, alone,
    and ``_plain_floor_ms`` the same by tensor operations over the whole batch.

Gradients by tensor operations of more than 10,000 subjects are taken 10,000 subjects at a time, for their memory.
"""

import argparse
import json
import logging
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import nlme_torch as nlme
from nlme_torch.solve import RK4, Auto, Rodas5P, Solver, TorchDiffEq, Tsit5, solve
from nlme_torch.solve.kernel import Limits, find_kernel
from nlme_torch.solve.kernel.library import Inputs, slopes
from nlme_torch.solve.problem.problem import build_problem
from nlme_torch.solve.tableau import TSITOURAS, Method

TARGET, DEFAULT = 1e-5, 1e-6
SWEEP = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
CHUNK = 10_000
Problem = tuple[Callable[..., Tensor], Tensor, Tensor, tuple[Tensor, ...]]


def oral(t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """One compartment, first-order absorption."""
    ka, ke = parameters[0]
    return torch.stack([-ka * y[0], ka * y[0] - ke * y[1]])


def network(weights: Tensor, x: Tensor) -> Tensor:
    """A 1-2-1 tanh network per subject, weights (7, subject)."""
    first = torch.tanh(torch.addcmul(weights[2], weights[0], x))
    second = torch.tanh(torch.addcmul(weights[3], weights[1], x))
    return weights[4] * first + weights[5] * second + weights[6]


def four_networks(t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """The published theophylline model whose right-hand side is four networks."""
    weights, dose = parameters
    uptake = functional.softplus(network(weights[:7], t / 24))
    leak = functional.softplus(network(weights[7:14], functional.softplus(y[0])))
    loss = functional.softplus(network(weights[14:21], functional.softplus(y[1])))
    gain = functional.softplus(network(weights[21:], t / 24))
    return torch.stack([-dose * uptake - leak, dose * (uptake + gain) + leak - loss])


def viral(t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """Target-cell-limited viral dynamics with fast clearance."""
    beta, delta, production, clearance = parameters[0]
    infection = beta * y[0] * y[2]
    return torch.stack([-infection, infection - delta * y[1], production * y[1] - clearance * y[2]])


def make(name: str, subjects: int) -> Problem:
    """A problem with records of the theophylline table (smooth, network) or daily ones (stiff)."""
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int) -> Tensor:
        return torch.randn(rows, subjects, generator=generator, dtype=torch.float64)

    batch = nlme.examples.theophylline().batch()
    times = batch.times.repeat(1, math.ceil(subjects / 12))[:, :subjects]
    if name == "smooth":
        parameters = torch.tensor([[1.5], [0.09]], dtype=torch.float64) * torch.exp(0.4 * noise(2))
        initial = torch.stack([torch.full((subjects,), 8.0, dtype=torch.float64), torch.zeros(subjects).double()])
        return oral, initial, times, (parameters,)
    if name == "network":
        dose = torch.linspace(260.0, 380.0, subjects, dtype=torch.float64)
        return four_networks, torch.stack([dose, torch.zeros_like(dose)]), times, (0.3 * noise(28), dose)
    rates = torch.tensor([[5e-9], [1.5], [25.0], [300.0]], dtype=torch.float64) * torch.exp(0.1 * noise(4))
    start = torch.tensor([[4e8], [0.0], [0.1]], dtype=torch.float64).expand(3, subjects)
    return viral, start, torch.linspace(0, 14, 15, dtype=torch.float64)[:, None], (rates,)


def runs(problem: Problem, name: str) -> Iterator[tuple[str, list[tuple[float, Callable[..., Tensor]]]]]:
    """Every method with its variants: pairs of tolerance (or step) and a function of the parameters."""

    def by(solver: Solver) -> Callable[..., Tensor]:
        field, initial, times, _ = problem
        return lambda *parameters: solve(field, initial, times, parameters, solver=solver).states

    yield "tsit5", [(rtol, by(Tsit5(rtol, rtol * 1e-2))) for rtol in SWEEP]
    yield "auto", [(rtol, by(Auto(rtol, rtol * 1e-2))) for rtol in SWEEP]
    yield "rodas5p", [(rtol, by(Rodas5P(rtol, rtol * 1e-2))) for rtol in SWEEP]
    yield "torchdiffeq", [(rtol, by(TorchDiffEq(rtol=rtol, atol=rtol * 1e-2, max_steps=20_000))) for rtol in SWEEP]
    continuous = TorchDiffEq(rtol=DEFAULT, atol=DEFAULT * 1e-2, adjoint="continuous", max_steps=20_000)
    yield "torchdiffeq_adjoint", [(DEFAULT, by(continuous))]
    yield "tsit5_plain", [(DEFAULT, by(Tsit5(DEFAULT, DEFAULT * 1e-2, compile=False)))]
    if name != "stiff":
        yield "rk4", [(DEFAULT, by(RK4(20)))]
        yield "rk4_plain", [(DEFAULT, by(RK4(20, compile=False)))]
    if name == "smooth":
        yield "closed_form", [(DEFAULT, lambda parameters: closed_form(problem, parameters))]
        yield "linear", [(DEFAULT, lambda parameters: linear(problem, parameters))]
    if (method := torchode(problem)) is not None:
        yield "torchode", [(DEFAULT, method)]


def closed_form(problem: Problem, parameters: Tensor) -> Tensor:
    """The exact solution of the smooth problem."""
    _, initial, times, _ = problem
    ka, ke = parameters
    gut = initial[0] * torch.exp(-ka * times)
    central = initial[0] * ka / (ka - ke) * (torch.exp(-ke * times) - torch.exp(-ka * times))
    return torch.stack([gut, central], 1)


def linear(problem: Problem, parameters: Tensor) -> Tensor:
    """The smooth problem as linear compartments, in the library's closed form."""
    _, initial, times, _ = problem
    absorption, elimination = parameters
    system = nlme.compartments.OneCompartment(elimination, 1.0, absorption)
    return nlme.compartments.solve_linear(system, initial, times).states


def torchode(problem: Problem) -> Callable[..., Tensor] | None:
    """Torchode's Dopri5 (per-subject steps, interpolated records), if it is installed."""
    try:
        import torchode as to
    except ImportError:
        return None
    field, initial, times, _ = problem
    grid = times.expand(-1, initial.shape[1]).T.contiguous()

    def run(*parameters: Tensor) -> Tensor:
        term = to.ODETerm(lambda t, y: field(t, y.T, parameters).T)
        controller = to.IntegralController(atol=DEFAULT * 1e-2, rtol=DEFAULT, term=term)
        solver = to.AutoDiffAdjoint(to.Dopri5(term=term), controller)
        return solver.solve(to.InitialValueProblem(y0=initial.T, t_eval=grid)).ys.permute(1, 2, 0)

    return run


def seconds_of(function: Callable[[], object], budget: float) -> float:
    """Median CPU time of repeated calls within a budget of seconds, after one call to warm up."""
    samples: list[float] = []
    while len(samples) < 2 or (sum(samples) < budget and len(samples) < 40):
        begun = time.process_time()
        function()
        samples.append(time.process_time() - begun)
    return statistics.median(samples[1:])


def error_of(states: Tensor, exact: Tensor) -> float:
    """Largest error relative to each subject's largest value of each state."""
    return float(((states - exact).abs() / exact.abs().amax(0).clamp(min=1e-300)).max())


def at_target(points: list[tuple[float, float]]) -> float | None:
    """Shortest time among the runs whose error is at most TARGET; None if there is none."""
    return min((seconds for error, seconds in points if error <= TARGET), default=None)


def study(name: str, subjects: int, budget: float) -> dict[str, float]:
    """Times and errors of all methods on one problem of one size."""
    problem = make(name, subjects)
    field, initial, times, parameters = problem
    reference = Auto if name == "stiff" else Tsit5
    exact = solve(field, initial, times, parameters, solver=reference(1e-12, 1e-15, max_steps=100_000)).states
    leaves = tuple(value.clone().requires_grad_() for value in parameters)
    keys: dict[str, float] = {}
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    big = subjects > 10_000

    def gradient(method: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> object:
        return torch.autograd.grad(method(*inputs).square().sum(), inputs, allow_unused=True)

    for label, variants in runs(problem, name):
        slow = label in ("torchdiffeq_adjoint", "tsit5_plain", "rk4_plain", "torchode") or (
            name == "stiff" and "diffeq" in label
        )
        if slow and (big or (name == "stiff" and (subjects > 600 or label != "torchdiffeq"))):
            continue
        curves[label] = {"forward": [], "gradient": []}
        for rtol, method in variants:
            if label == "torchdiffeq" and (rtol < 1e-8 or ((big or name == "stiff") and rtol not in (1e-5, 1e-6))):
                continue
            with torch.no_grad():
                error = error_of(method(*parameters), exact)
                seconds = seconds_of(lambda run=method: run(*parameters), budget)
            curves[label]["forward"].append((error, seconds))
            wanted = label in ("tsit5", "auto", "torchdiffeq") or rtol == DEFAULT
            both = None
            if wanted and big and label == "torchdiffeq":
                both = sum(
                    seconds_of(lambda run=part, at=inputs: gradient(run, at), 0.0)
                    for part, inputs in in_chunks(name, problem, label, rtol)
                )
            elif wanted:
                both = seconds_of(lambda run=method: gradient(run, leaves), budget)
            if both is not None:
                curves[label]["gradient"].append((error, both))
            if rtol == DEFAULT:
                stem = f"{name}_{subjects}_{label}"
                keys |= {f"{stem}_ms": 1e3 * seconds, f"{stem}_error": error}
                if both is not None:
                    keys[f"{stem}_gradient_ms"] = 1e3 * both
                print(f"{stem}: {1e3 * seconds:.3g} ms, error {error:.1e}, with gradient "
                      f"{'-' if both is None else f'{1e3 * both:.3g} ms'}", flush=True)  # fmt: skip
    if name != "stiff":
        keys |= {f"{name}_{subjects}_{key}": value for key, value in floors(name, subjects).items()}
    own = "auto" if name == "stiff" else "tsit5"
    for kind, suffix in (("forward", "ratio"), ("gradient", "gradient_ratio")):
        ours, theirs = (at_target(curves.get(label, {}).get(kind, [])) for label in (own, "torchdiffeq"))
        if ours and theirs:
            keys[f"{name}_{subjects}_{suffix}"] = theirs / ours
            print(f"{name}_{subjects}_{suffix}: {theirs / ours:.1f}", flush=True)
    return keys


def in_chunks(
    name: str, problem: Problem, label: str, rtol: float
) -> Iterator[tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """One method on 10,000 subjects after the other, each with the leaves of its gradient."""
    field, initial, times, parameters = problem
    for first in range(0, initial.shape[1], CHUNK):
        part = slice(first, first + CHUNK)
        here = tuple(value[..., part].clone().requires_grad_() for value in parameters)
        posed = (field, initial[:, part], times[:, part], here)
        (method,) = (run for found, tried in runs(posed, name) if found == label for at, run in tried if at == rtol)
        yield method, here


def floors(name: str, subjects: int) -> dict[str, float]:
    """Time of the evaluations that Tsit5 needs at the default tolerance, and nothing else.

    An evaluation by compiled code is timed on 6000 subjects at least, lest the call be timed instead.
    """
    field, initial, times, parameters = make(name, subjects)
    many = make(name, max(subjects, 6000))
    statistics = solve(field, initial, times, parameters, solver=Tsit5(DEFAULT, DEFAULT * 1e-2)).statistics
    posed = build_problem(*many, None)
    kernel = find_kernel(posed, Method(TSITOURAS, None))
    assert kernel is not None
    own, shared = kernel.layout.pack(posed.parameters, posed.batch, posed.initial)
    last = torch.zeros(posed.batch.numel(), dtype=torch.int64)
    inputs = Inputs(posed.initial.contiguous(), posed.times[:1].contiguous(), last, own, shared, None, None, None)
    limits = Limits(1.0, 1.0, 1, 1)
    once = seconds_of(lambda: slopes(kernel.forwards, inputs, limits), 0.2)
    with torch.no_grad():
        plain = seconds_of(lambda: field(times[0], initial, parameters), 0.2)
    share = subjects / posed.batch.numel()
    return {
        "floor_ms": 1e3 * share * once * float(statistics.evaluations.double().mean()),
        "plain_floor_ms": 1e3 * plain * int(statistics.evaluations.max()),
    }


def compile_seconds() -> dict[str, float]:
    """Time of the first solve and the first gradient of new vector fields, compiler included."""
    keys = {}
    for name in ("smooth", "network"):
        field, initial, times, parameters = make(name, 12)
        salt = 1 + time.time() % 1 * 1e-9  # a new constant, hence new code
        leaves = tuple(value.clone().requires_grad_() for value in parameters)

        def fresh(t: Tensor, y: Tensor, p: tuple[Tensor, ...], f: Callable = field, s: float = salt) -> Tensor:
            return s * f(t, y, p)

        begun = time.perf_counter()
        states = solve(fresh, initial, times, leaves, solver=Tsit5()).states
        middle = time.perf_counter()
        torch.autograd.grad(states.sum(), leaves, allow_unused=True)
        keys[f"{name}_compile_seconds"] = middle - begun
        keys[f"{name}_compile_gradient_seconds"] = time.perf_counter() - middle
    return keys


def main() -> None:
    """Run what is asked and write the keys."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sizes", default="12,600,6000,100000")
    parser.add_argument("--problems", default="smooth,network,stiff")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    keys: dict[str, float | str] = {
        "machine": f"{platform.machine()}, one core", "torch": torch.__version__, "date": date.today().isoformat()
    }  # fmt: skip
    keys |= compile_seconds()
    for name in options.problems.split(","):
        for subjects in map(int, options.sizes.split(",")):
            keys |= study(name, subjects, options.budget)
            options.json.write_text(json.dumps(keys, indent=1) + "\n")


if __name__ == "__main__":
    main()
