"""How far from the exact maximum does SAEM end by default, and does it know?

    python benchmarks/certificate.py --json FILE [--only theophylline,...] [--seeds 5 | 2,3] [--maxima]

Every problem is fitted by the default SAEM from several seeds. The gap is the exact -2 log-likelihood at the estimates
minus the exact maximum; beside it stands what the fit's own certificate says is left, twice the gain in log-likelihood.
saem_gap_worst is the largest gap of all. Every error is one standard error of -2 log-likelihood. Orange begins at three
poor starts.

Exact values are those of adaptive quadrature, or of weighted quasi-random draws where effects are many: draws are added
until the standard error is at most 0.01, up to 131,072 per subject. The maxima, without the constant of normal records,
were found by this script as well (``--maxima``): by quadrature's own fit, or by Newton steps on Louis's score and
information from NONMEM's estimates until half of s' I^-1 s is below its noise. The data of the tutorial stand beside
the checkout; problems without data are left out.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyro.distributions as dist
import torch
from record import Figures, conditions, record
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.effects.unseen import effects_for_likelihood
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate, log_mean
from nlme_torch.inference.likelihood.quasi_draws import Shape, quasi_draws
from nlme_torch.inference.saem.certificate import corrected
from nlme_torch.inference.saem.judgement import judge
from nlme_torch.inference.saem.louis import louis_sums, prior_derivatives
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import assign, parameter_values
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.density.residual_scale import residual_scales

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import support.tutorial_models as tutorial_models  # noqa: E402

ERROR, MOST_DRAWS = 0.01, 131_072
"""Standard error of -2 log-likelihood that is good enough, and most draws per subject."""
REPLICATES, DRAWS, ROUNDS, FARTHEST = 16, 2048, 6, 4.0
"""Replicates, draws of each at once, most Newton steps, and most log-likelihood that one may promise."""


class Orange(nlme.Model):
    """Logistic growth of trees with an effect on the asymptote alone."""

    def __init__(self, asym: float, xmid: float, scal: float, sigma: float, omega: float) -> None:
        super().__init__()
        self.asym = nlme.Normal(asym, omega=omega)
        self.xmid, self.scal, self.sigma = nlme.Real(xmid), nlme.Positive(scal), nlme.Positive(sigma)

    def predict(self, t, p, cov):  # type: ignore[no-untyped-def]
        """Return the circumference."""
        return p.asym / (1 + torch.exp((p.xmid - t) / p.scal))

    def observe(self, t, y, p):  # type: ignore[no-untyped-def]
        """Additive error."""
        return {"DV": dist.Normal(y, p.sigma)}


def orange_data() -> nlme.Dataset:
    """Return the circumferences of five orange trees."""
    frame = pd.read_csv(ROOT.parent / "shared" / "data" / "orange.csv")
    return nlme.Dataset.from_frame(frame.set_axis(["ID", "TIME", "DV"], axis=1))


class Kept:
    """The default SAEM, which keeps what it handed back."""

    def __init__(self) -> None:
        self.kept: list[Estimation] = []

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Fit as SAEM does."""
        self.kept.append(nlme.SAEM().estimate(density, generator, progress))
        return self.kept[-1]


class EvenDraws:
    """The marginal likelihood from weighted quasi-random draws, as many as a small error takes."""

    def log_marginal(self, density: Density, effects: EffectEstimates, generator: torch.Generator) -> MarginalEstimate:
        """Draw about what is known of the effects."""
        conditional = density.at()
        shape = near(conditional, effects, generator)
        parts: list[Tensor] = []
        while True:
            drawn = quasi_draws(conditional, shape, DRAWS, REPLICATES, generator)
            parts.append(drawn.log_marginal)
            each = torch.cat(parts)
            value = log_mean(each)
            error = ((each - value).exp().var(0) / len(each)).sqrt()
            used = len(each) * DRAWS
            if 2 * float(error.square().sum().sqrt()) <= ERROR or used >= MOST_DRAWS:
                return MarginalEstimate(value, error, used * drawn.effective, drawn.khat, used)

    def __str__(self) -> str:
        return "EvenDraws()"


def near(conditional: Conditional, effects: EffectEstimates, generator: torch.Generator) -> Shape:
    """Mean and covariance of phi, made better by two rounds of few draws."""
    shape = Shape((effects.means + conditional.mean[:, 0]).detach(), effects.covariances)
    for _ in range(2):
        shape = quasi_draws(conditional, shape, 128, REPLICATES, generator).shape()
    return shape


def climb(model: nlme.Model, data: nlme.Dataset, draws: int) -> nlme.Model:
    """Newton steps from a model's own values to the maximum of the marginal likelihood."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    density = Density(model, data.batch(), nlme.Auto())
    scales = residual_scales(density)
    scalars = FreeScalars(model, {name: value.detach() for name, value in parameter_values(model).items()})
    shape = near(density.at(), effects_for_likelihood(density, generator), generator)
    for _ in range(ROUNDS):
        drawn = quasi_draws(density.at(scalars.values), shape, draws // REPLICATES, REPLICATES, generator)
        shape = drawn.shape()
        sums = corrected(louis_sums(density, scalars, drawn.phi, scales, drawn.weights), drawn)
        found = judge(sums, *prior_derivatives(density, scalars))
        assert found is not None
        step = found.step * min(1.0, FARTHEST / found.gain) ** 0.5
        scalars = FreeScalars(model, {n: v.detach() for n, v in scalars.at((scalars.vector + step)[None]).items()})
        print(f"  {2 * found.left:.4f} +- {2 * found.standard_error:.4f} above the maximum before a step", flush=True)
        if found.gain < 2 * found.noise:  # the step went to where the draws' own maximum is
            break
    assign(model, scalars.values)
    return model


class Problem(NamedTuple):
    """A model with data and what is known of its maximum.

    Attributes:
        model: At its initial values.
        data: The data set.
        best: The smallest -2 log-likelihood, without the constant of normal records.
        exact: How it is integrated.
        start: Parameters from which the maximum is sought; None by quadrature.
    """

    model: Callable[[], nlme.Model]
    data: Callable[[], nlme.Dataset]
    best: float
    exact: nlme.Quadrature | EvenDraws = nlme.Quadrature(nodes=15)
    start: Callable[[], dict[str, Any]] | None = None


def printed(name: str, params: Callable[[dict[str, float]], dict[str, Any]]) -> dict[str, Any]:
    """Estimates of NONMEM's importance sampling."""
    return params(tutorial_models.reference(name)["IMP"]["estimates"])


PROBLEMS: dict[str, Problem] = {
    "theophylline": Problem(nlme.examples.TheophyllineClosedForm, nlme.examples.theophylline, 118.10097),
    "phenobarbital": Problem(nlme.examples.Phenobarbital, nlme.examples.phenobarbital, 585.90308),
    "orange_near": Problem(lambda: Orange(200, 700, 350, 8, 900), orange_data, 198.81807),
    "orange_steep": Problem(lambda: Orange(575, 240, 1050, 24, 100), orange_data, 198.81807),
    "orange_flat": Problem(lambda: Orange(64, 2100, 115, 3, 10000), orange_data, 198.81807),
    "bauer_501": Problem(tutorial_models.Covariates, tutorial_models.covariates_data, 1051.46186),
    "bauer_ad3tr4": Problem(
        tutorial_models.BelowLimit,
        tutorial_models.below_limit_data,
        -125.2316,
        EvenDraws(),
        lambda: printed("blq", tutorial_models.below_limit_params),
    ),
    "bauer_r2comp": Problem(
        tutorial_models.TargetMediated,
        tutorial_models.target_mediated_data,
        -4706.17,
        EvenDraws(),
        lambda: printed("tmdd", tutorial_models.target_mediated_params),
    ),
}


def maximum(name: str, draws: int) -> Figures:
    """Seek the exact maximum of one problem."""
    problem, begun = PROBLEMS[name], time.process_time()
    model, data = problem.model(), problem.data()
    if problem.start is None:
        found = nlme.fit(model, data, nlme.Quadrature(nodes=15), progress=False)
        value, error = found.ofv, 0.0
    else:
        assign(model, values_from_natural(model, problem.start()))
        top = nlme.ofv(climb(model, data, draws), data, EvenDraws())
        value, error = top.ofv, top.standard_error
    seconds = time.process_time() - begun
    print(f"{name}: maximum at {value:.5f} +- {error:.4f}, {seconds:.1f} s", flush=True)
    return {
        f"{name}_maximum": value,
        f"{name}_maximum_error": error,
        f"{name}_maximum_cpu_seconds": seconds,
        f"{name}_maximum_run": conditions(),
    }


def study(name: str, seeds: Sequence[int]) -> Figures:
    """Fit one problem from several seeds."""
    problem = PROBLEMS[name]
    table = problem.data()
    warm = Density(copy.deepcopy(problem.model()), table.batch(), nlme.Auto())
    brief = nlme.SAEM(schedule=nlme.StepSchedule(exploration=3, smoothing=2))
    brief.estimate(warm, torch.Generator().manual_seed(0), False)  # what is compiled is not counted
    figures: Figures = {}
    for seed in seeds:
        begun = time.process_time()
        method = Kept()
        fit = nlme.fit(problem.model(), table, method, seed=seed, progress=False)
        seconds = time.process_time() - begun
        exact = nlme.loglik(fit, problem.exact, seed=seed)
        certificate = method.kept[-1].certificate
        assert certificate is not None
        gap, error = exact.ofv - problem.best, 2 * exact.standard_error
        print(
            f"{name}, seed {seed}: {gap:.3f} (Monte-Carlo error {error:.3f}) above the maximum, "
            f"{2 * certificate.gain:.3f} +- {2 * certificate.standard_error:.3f} said to be left, "
            f"{fit.status.name}, {seconds:.1f} s",
            flush=True,
        )
        figures[f"{name}_{seed}_gap"] = gap
        figures[f"{name}_{seed}_gap_error"] = error
        figures[f"{name}_{seed}_left"] = 2 * certificate.gain
        figures[f"{name}_{seed}_left_error"] = 2 * certificate.standard_error
        figures[f"{name}_{seed}_converged"] = float(fit.converged)
        figures[f"{name}_{seed}_cpu_seconds"] = seconds
        figures[f"{name}_{seed}_run"] = conditions()
    return figures


def main() -> None:
    """Run the problems and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(PROBLEMS), help="problems to run, comma-separated")
    parser.add_argument("--seeds", default="5", help="how many, or which, comma-separated")
    parser.add_argument("--maxima", action="store_true", help="seek the maxima instead")
    parser.add_argument("--draws", type=int, default=16_384, help="draws per subject of a Newton step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    seeds = list(range(1, seeds[0] + 1)) if len(seeds) == 1 else seeds
    figures: Figures = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for name in arguments.only.split(","):
        try:
            found = maximum(name, arguments.draws) if arguments.maxima else study(name, seeds)
        except FileNotFoundError as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        figures.update(found)
        gaps = {key: float(value) for key, value in figures.items() if key.endswith("_gap")}
        for known in PROBLEMS:
            own = [gap for key, gap in gaps.items() if key.startswith(f"{known}_")]
            if own:
                figures[f"{known}_gap_worst"] = max(own)
        if gaps:
            figures["saem_gap_worst"] = max(gaps.values())
        record(arguments.json, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
