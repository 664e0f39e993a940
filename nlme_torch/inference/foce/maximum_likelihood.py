"""Maximum likelihood (or a posteriori) by minimising an approximate -2 log-likelihood from outside."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.collapsed_variances import collapsed
from nlme_torch.inference.foce.end import effect_estimates, log_likelihood
from nlme_torch.inference.foce.rank import rank
from nlme_torch.inference.foce.search import Search
from nlme_torch.inference.foce.walk import walk
from nlme_torch.inference.likelihood.doubtful_modes import doubtful_modes, modes_at_kinks, with_next_modes
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.expansion_points import Expansion, solves_equations
from nlme_torch.inference.marginal.laplace import exact_curvature
from nlme_torch.inference.marginal.objective import MarginalObjective, subject_gradients
from nlme_torch.inference.marginal.singular_hessian import SINGULAR
from nlme_torch.inference.modes.starts import jittered_starts
from nlme_torch.inference.optimise.minimisers import BFGS, LBFGS, Adam, Iterate, Minimum
from nlme_torch.inference.optimise.optimality import Optimality
from nlme_torch.inference.optimise.outer_search import OuterSearch
from nlme_torch.inference.optimise.tails import Tail, judged
from nlme_torch.inference.optimise.trust_region import TrustRegion
from nlme_torch.inference.progress import Progress, progress_line
from nlme_torch.model.declare.scalars import all_scalars, scalar_matrix, structural_scalars
from nlme_torch.model.declare.values import ParameterValues, parameter_values
from nlme_torch.model.density.normal_observations import normal_observations

Found = TypeVar("Found")

DENSE_LIMIT = 150
"""Parameters up to which a whole matrix of second derivatives is learnt, one pair of gradients at a time."""
SCALING_SUBJECTS = 24
"""Subjects whose scores scale the first step, which need be right to a factor alone; each costs a gradient."""
OVER = 0.5
"""Share of the eigenvalue at which searches stop below which one began where modes merged already; better modes at an
end may lower it a little."""
BACK = 4.0
"""Change of the logarithm of what ran away, before another search begins."""


def maximise(approximation: Approximation, search: Search, generator: torch.Generator, progress: bool) -> Estimation:
    """Maximise FO, FOCE, FOCEI, Laplace or quadrature.

    Args:
        approximation: Which, joined to a model, whose own parameters are the initial values, and its data.
        search: How.
        generator: Source of randomness, for further starts.
        progress: Whether to show a progress line.

    Returns:
        Estimates with modes, likelihood and trace.

    Raises:
        FitError: A subject cannot be evaluated at the initial values, or nothing is to be estimated.
    """
    density = approximation.density
    if not approximation.names:
        raise FitError("every parameter is fixed, so there is nothing to estimate; evaluate nlme.ofv instead.")
    starts = jittered_starts(density, parameter_values(density.model), search.starts, search.spread, generator)
    runs: list[_Run] = []
    for start in range(search.starts):
        values = {name: value[start : start + 1] for name, value in starts.items()}
        try:
            run = _Run(approximation, search, values, progress)
        except FitError:
            if start == 0 or runs:
                raise
            continue
        except KeyboardInterrupt:
            if not runs:
                raise
            runs[-1].stop()
            break
        run.go(leave=search.starts == 1 and search.optimiser is None and not density.model.has_network)
        runs.append(run)
        if run.interrupted:
            break
    best = min(runs, key=_Run.rank)
    if best.doubtful:
        others = _rescued(best, generator)
        better = any(other.minimum.converged and other.rank() < best.rank() for other in others)
        if best.left and not best.interrupted and not better:
            best.resume()
        runs += others
    best = min(runs, key=_Run.rank)
    try:
        return best.estimation(runs, generator)
    except KeyboardInterrupt:  # putting the result together is short
        best.stop()
        return best.estimation(runs, generator)


def _rescued(run: "_Run", generator: torch.Generator) -> "list[_Run]":
    """Search from another beginning, if one is found."""
    search, density = run.search, run.approximation.density
    assert search.rescue is not None
    try:
        values = search.rescue.beginning(density, run.farther_in(), generator)
        if values is None:
            return []
        other = _Run(run.approximation, search, values, run.progress)
        other.go()
    except FitError:
        return []
    except KeyboardInterrupt:  # what the first search has found stands
        run.stop()
        return []
    return [other]


class _FarAway(Exception):
    """The search has come so far that another one from elsewhere will follow, which is the shorter way.

    Args:
        point: The lowest so far.
    """

    def __init__(self, point: Iterate) -> None:
        super().__init__("the search began far away")
        self.point = point


class _Run:
    """One minimisation.

    A search that turns out to have begun far away is left for the rescue, and resumed only if that finds no maximum
    below: at once where equations are solved and every evaluation is dear, else before it would go on by values alone.
    """

    def __init__(self, approximation: Approximation, search: Search, values: ParameterValues, progress: bool) -> None:
        self.begun = time.perf_counter()
        self.approximation, self.search, self.progress = approximation, search, progress
        self.objective = MarginalObjective(approximation, values, search.searches(approximation.density))
        self.still = self.objective.check_gradient()
        self.normal = int(normal_observations(approximation.density).sum())
        self.begun_at = self.objective(self.objective.initial)[0]
        count = len(self.objective.initial)
        dense = TrustRegion() if approximation.density.model.has_network and approximation.has_modes else BFGS()
        self.optimiser = search.optimiser or (dense if count <= DENSE_LIMIT else LBFGS())
        self.rows: list[Tensor] = []
        self.numbers: list[dict[str, float]] = []
        self.minimum: Minimum
        self.optimality: Optimality | None = None
        self.outward: Tensor | None = None
        self.start = self.objective.initial
        self.left = False
        self.tail = Tail()

    def go(self, leave: bool = False) -> None:
        """Minimise; where posteriors may have several modes, look for better ones at the end and go on from there.

        Args:
            leave: Whether to leave the search where it turns out to have begun far away.
        """
        dear = solves_equations(self.approximation.density.model)
        with progress_line(self.optimiser.iterations, self.approximation.name, self.progress) as line:

            def leave_if_far(point: Iterate) -> None:
                if leave and self._poor(point.value):
                    raise _FarAway(point)

            def report(point: Iterate) -> None:
                self._report(point, line)
                if dear:
                    leave_if_far(point)

            try:
                if isinstance(self.optimiser, BFGS | LBFGS):
                    self._search(self.optimiser, report, leave_if_far)
                else:
                    self.minimum, self.outward = walk(self.objective, self.optimiser, self._scale, report)
            except _FarAway as end:
                reason = "the search began far away and was left for one from elsewhere"
                self.minimum = Minimum(end.point, len(self.rows), len(self.rows), Status.STALLED, reason)
                self.left = True
            else:
                ask = partial(judged, self.objective, self.minimum, self.optimality, DENSE_LIMIT)
                self.minimum, self.tail = self._standing(ask) or (self.minimum, self.tail)
            line.finish(self.approximation.name, self.minimum.iterations)

    def resume(self) -> None:
        """Go on where the search was left."""
        self.start, self.left = self.minimum.iterate.vector, False
        self.objective.centre = self.objective.kept
        self.go()

    def _poor(self, value: float) -> bool:
        rescue, density = self.search.rescue, self.approximation.density
        return rescue is not None and rescue.poor(self.begun_at, value, density.batch.n_observations)

    def _search(
        self,
        strategy: BFGS | LBFGS,
        report: Callable[[Iterate], None],
        before_values: Callable[[Iterate], None],
    ) -> None:
        """Rounds of a line search, and of the modes where they are searched from several starts."""
        objective, start = self.objective, self.start
        search = OuterSearch(objective, strategy, self._scale, report, before_values)
        for attempt in range(4):
            found = search.go(start)
            if attempt and not math.isfinite(found.minimum.iterate.value):
                break  # with other modes it cannot be evaluated: what was found before stands
            self.minimum, self.optimality, self.outward = found
            start = self.minimum.iterate.vector
            over = self.minimum.iterations >= strategy.iterations or self.interrupted
            if objective.mode_starts == 1 or not self.approximation.has_modes or over:
                break
            if not self._standing(partial(objective.restart, start)):
                break
            objective.keep()

    def _standing(self, compute: Callable[[], Found]) -> Found | None:
        """What is computed where a search has ended; None where the user ends that: the end of the search stands."""
        kept = self.objective.kept
        try:
            return compute()
        except KeyboardInterrupt:
            self.objective.kept = self.objective.centre = kept
            self.stop()
            return None

    def stop(self) -> None:
        """Note that the user ended it; what was found stands."""
        self.minimum = self.minimum._replace(status=Status.INTERRUPTED, reason="interrupted")

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it."""
        return self.minimum.status is Status.INTERRUPTED

    @property
    def doubtful(self) -> bool:
        """Whether a search from elsewhere should have its say, too."""
        ended = self.minimum.status in (Status.CONVERGED, Status.STALLED, Status.UNBOUNDED, Status.SINGULAR)
        if self.search.rescue is None or self.approximation.density.model.has_network or not ended:
            return False
        return self._poor(self.minimum.iterate.value) or not self.minimum.converged

    @property
    def unbounded(self) -> bool:
        """Whether it went where the likelihood, or its approximation, grows without end: no achievement then."""
        return self.minimum.status in (Status.UNBOUNDED, Status.SINGULAR)

    def farther_in(self) -> ParameterValues:
        """The initial values; what ran away from them is put a good way back first."""
        if self.outward is None:
            return self.objective.values
        return self.objective.at(self.objective.initial - BACK * self.outward)

    def rank(self) -> tuple[bool, float, int]:
        """What makes one search better than another."""
        endless, value, proof = rank(self.minimum)
        # a search that began where modes merge already is over the edge at which others stop
        over = self.minimum.status is Status.SINGULAR and bool((self.objective.kept_least < OVER * SINGULAR).any())
        return endless or over, value, proof

    def _scale(self, start: Tensor) -> Tensor:
        r"""T with :math:`T T^\top` near the inverse Hessian: from some subjects' scores, drawn to their diagonal."""
        identity = torch.eye(len(start), dtype=start.dtype, device=start.device)
        if len(start) > DENSE_LIMIT or isinstance(self.optimiser, Adam | TrustRegion):
            return identity
        approximation, centre = self.approximation, self.objective.centre
        subjects = centre.shape[-1]
        if subjects > SCALING_SUBJECTS:
            index = torch.linspace(0, subjects - 1, SCALING_SUBJECTS).round().long()
            centre, approximation = centre[..., index], approximation.restricted(index)
        scores = subject_gradients(approximation, self.objective.at(start), centre)
        information = 0.5 * subjects / len(scores) * scores.mT @ scores
        diagonal = information.diagonal().clamp_min(1e-6 * float(information.diagonal().max()) + 1e-12)
        information = 0.5 * information + 0.5 * torch.diag(diagonal)
        factor, failed = torch.linalg.cholesky_ex(information)
        if int(failed) or not bool(torch.isfinite(factor).all()):
            return identity
        return torch.linalg.solve_triangular(factor, identity, upper=False).mT

    def _report(self, point: Iterate, line: Progress) -> None:
        values = self.objective.at(point.vector)
        model = self.approximation.density.model
        self.rows.append(scalar_matrix(all_scalars(model, values))[0])
        penalty = -2 * float(self.objective.log_prior(point.vector))
        ofv = point.value - penalty - self.normal * math.log(2 * math.pi)
        numbers = {"ofv": ofv, "gradient": point.scaled_gradient}
        row = {**numbers, "seconds": time.perf_counter() - self.begun}
        self.numbers.append({**row, "penalised": point.value} if penalty else row)
        shown = {name: float(value[0]) for name, value in list(structural_scalars(model, values).items())[:3]}
        line.advance(self.approximation.name, {**numbers, **shown})

    def estimation(self, runs: "list[_Run]", generator: torch.Generator) -> Estimation:
        """Put the result together."""
        vector = self.minimum.iterate.vector
        values = {name: value.detach() for name, value in self.objective.at(vector).items()}
        found = self.objective.expansion(vector, gradient=False)
        names = list(all_scalars(self.approximation.density.model, values))
        table = torch.stack(self.rows).numpy(force=True) if self.rows else torch.zeros(0, len(names)).numpy()
        trace = pd.DataFrame(table, columns=names)
        trace.insert(0, "iteration", range(1, len(trace) + 1))
        trace.insert(1, "phase", self.approximation.name)
        trace = pd.concat([trace, pd.DataFrame(self.numbers)], axis=1)
        return Estimation(
            values=values,
            trace=trace,
            status=self._status,
            termination=self._termination(runs),
            warnings=self._warnings(found, runs),
            effects=effect_estimates(self.approximation, values, found, generator),
            log_likelihood=with_next_modes(log_likelihood(self.approximation, values, found), self._gap),
        )

    @property
    def _status(self) -> Status:
        """A maximum is not claimed where a parameter was never felt: it stands where it began."""
        unfelt = bool(self.still) and bool((self.minimum.iterate.gradient == 0.0).any())
        return Status.STALLED if unfelt and self.minimum.converged else self.minimum.status

    @property
    def _gap(self) -> Tensor | None:
        return None if self.objective.gap is None else self.objective.gap[0]

    def _termination(self, runs: "list[_Run]") -> str:
        end = self.minimum
        kind = type(self.optimiser).__name__
        state = "converged" if end.converged else ("interrupted" if self.interrupted else "did not converge")
        text = (
            f"{kind} {state} after {end.iterations} iterations ({end.evaluations} evaluations): {end.reason}; gradient "
            f"norm {float(end.iterate.gradient.norm()):.2g} on the estimation scale, largest scaled component "
            f"{end.iterate.scaled_gradient:.2g}"
        )
        if len(runs) > 1:
            ranking = ", ".join(f"{run.minimum.iterate.value:.3f}" for run in runs)
            text += f"; best of {len(runs)} starts (objectives {ranking})"
        return text

    def _warnings(self, found: Expansion, runs: "list[_Run]") -> tuple[str, ...]:
        messages = list(self.still)
        elsewhere = [run.minimum.reason for run in runs if run.unbounded and not self.unbounded]
        if elsewhere:
            messages.append(f"this is a local maximum, found by another search, but {elsewhere[0]}")
        if self.interrupted:
            messages.append("the fit was interrupted: these are the best values seen, not a maximum")
        elif not self.minimum.converged:
            messages.append(
                f"the minimisation did not converge ({self.minimum.reason}; largest scaled gradient "
                f"{self.minimum.iterate.scaled_gradient:.2g})"
            )
        messages += self.tail.fallen_to_nothing()
        if not found.finite:
            lost = (~torch.isfinite(found.evaluation.value[0])).nonzero()[:, 0].tolist()
            subjects = self.approximation.density.batch.subjects
            named = ", ".join(str(subjects[place]) for place in lost[:5])
            messages.append(
                f"{len(lost)} of {len(subjects)} subjects ({named}) have no conditional mode at the estimates: their "
                "likelihood is not known, and eta and IPRED are NaN"
            )
        messages += doubtful_modes(
            self.approximation.name,
            self.approximation.density.batch.subjects,
            self._gap,
            exact_curvature(self.approximation, found.evaluation),
        )
        values = self.objective.at(self.minimum.iterate.vector)
        messages += modes_at_kinks(self.approximation.name, self.approximation, values, found)
        messages += collapsed(self.approximation.density, values)
        return tuple(messages)
