"""The course of a fit by SAEM: starts, exploration, smoothing, and the judgement of its end."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.errors import NLMEError
from nlme_torch.inference.effects.moves import ConditionalModes, PhiMoments
from nlme_torch.inference.estimates.certificate import Certificate
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.free_scalars import FreeScalars, raw_labels
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.mcmc.autocorrelation import autocorrelation_time
from nlme_torch.inference.mcmc.kernels import Tuning
from nlme_torch.inference.modes.starts import jittered_starts, usable_starts
from nlme_torch.inference.optimise.tails import Tail, far_away, tail_of_estimates, undetermined
from nlme_torch.inference.pooled.pooled import Pooled
from nlme_torch.inference.progress import Progress, progress_line
from nlme_torch.inference.saem.best_start import best_start
from nlme_torch.inference.saem.certificate import Certification, Certifier, Chains
from nlme_torch.inference.saem.edge import edge
from nlme_torch.inference.saem.race import Race
from nlme_torch.inference.saem.recorder import Recorder
from nlme_torch.inference.saem.step import SAEMAlgorithm, SAEMState
from nlme_torch.model.declare.values import (
    ParameterValues,
    flatten_values,
    free_names,
    parameter_values,
    unflatten_values,
)
from nlme_torch.model.density.density import Density

FIRST_SMOOTHING = 50
"""Smoothing iterations after which an end is judged; the others follow where it falls short of the maximum."""
LOOK_BACK = 40
"""Iterations from which autocorrelation is measured."""
INDEPENDENT_DRAWS, MOST_AUTOCORRELATION = 800, 3.0
"""Independent draws of all subjects per iteration, and the autocorrelation time up to which chains make up for it."""


@dataclass
class Course:
    """One fit from its starts to its end; what stands can be had at any time.

    Attributes:
        algorithm: SAEM for the model and its data.
        resting: The same in an endless burn-in, in which nothing but the chains moves.
        starts: See :class:`nlme_torch.SAEM`, as for the others.
        spread: How far further starts are jittered.
        race: How the starts compete.
        warm_up: A pooled fit of every start.
        drift_tolerance: When the exploration ends.
        window: Iterations of a window of drift.
        certification: How the end is judged.
        branching: Whether the number of chains follows their autocorrelation.
    """

    algorithm: SAEMAlgorithm
    resting: SAEMAlgorithm
    starts: int
    spread: float
    race: Race | None
    warm_up: Pooled | None
    drift_tolerance: float
    window: int
    certification: Certification
    branching: bool

    def run(self, generator: torch.Generator, progress: bool) -> Estimation:
        """Go through all phases, or until the user stops it; return what stands then."""
        density = self.algorithm.density
        self.values: dict[str, Tensor] = parameter_values(density.model)
        self.state: SAEMState | None = None
        self.certifier: Certifier | None = None
        self.status, self.reason, self.ranking, self.best = Status.ITERATIONS_USED, "", "", 0
        self.warnings: list[str] = []
        self.unmeasured = ""
        self.unfelt: list[str] = []
        self.recorder = Recorder(density)
        try:
            self._start(generator, progress)
            self._iterate(generator, progress)
        except KeyboardInterrupt:
            self.status = Status.INTERRUPTED
        return self._estimation()

    def _start(self, generator: torch.Generator, progress: bool) -> None:
        algorithm, density = self.algorithm, self.algorithm.density
        self.values = jittered_starts(density, self.values, self.starts, self.spread, generator)
        if self.warm_up is not None:
            self.values = self.warm_up.maximise(density, self.values)
        if self.race is not None:
            with progress_line(sum(length for _, length in self.race.rounds(self.starts)), "race", progress) as line:
                self.values = self.race.run(algorithm, self.values, generator, lambda: line.advance("SAEM race"))
        self.values = usable_starts(density, self.values)
        self.state = algorithm.init(self.values, generator)
        self.unfelt = not_felt(density, self.values, self.state.transformed)
        self.warnings += self.unfelt

    @property
    def _certifies(self) -> bool:
        """Whether the end is judged by fresh draws."""
        return bool(self.certification.rounds) and not self.algorithm.density.model.has_network

    def _iterate(self, generator: torch.Generator, progress: bool) -> None:
        """Explore and smooth until the end is judged to be the maximum, or all iterations are used."""
        schedule = self.algorithm.schedule
        first = min(FIRST_SMOOTHING, schedule.smoothing) if self._certifies else schedule.smoothing
        with progress_line(schedule.burn_in + schedule.exploration + first, "SAEM", progress) as line:
            self._explore(generator, line)
            explored = self.reason
            self._smooth(first, generator, line)
        self._judge(explored, generator, progress)
        before, best, ranking = self.certifier, self.best, self.ranking
        if first < schedule.smoothing and not (before is not None and before.reached):
            with progress_line(schedule.smoothing - first, "SAEM smooth", progress) as line:
                self._smooth(schedule.smoothing - first, generator, line)
            self._judge(explored, generator, progress)
            if before is not None and (self.certifier is None or before.nearer(self.certifier)):
                self.certifier, self.best, self.ranking = before, best, ranking

    def _explore(self, generator: torch.Generator, line: Progress) -> None:
        """Explore until no parameter drifts; where nothing judges the end, for half of the iterations at least."""
        schedule, algorithm, recorder = self.algorithm.schedule, self.algorithm, self.recorder
        half, least = schedule.exploration // 2, 0 if self._certifies else schedule.exploration // 2
        assert self.state is not None
        self.reason = f"exploration used all of its {schedule.exploration} iterations"
        recent: deque[Tensor] = deque(maxlen=LOOK_BACK)
        while self.state.iteration < schedule.burn_in + schedule.exploration:
            self.state = algorithm.step(self.state, generator, smoothing=False)
            recent.append(self.state.transformed)
            done = self.state.iteration - schedule.burn_in
            self._report("burn-in" if done <= 0 else "explore", line)
            if self.branching and done == half:
                self._branch(recent)
            since = done - least
            if since >= 2 * self.window and since % 10 == 0:
                drift, parameter = recorder.drift(self.window)
                if drift < self.drift_tolerance:
                    self.status = Status.CONVERGED
                    self.reason = (
                        f"exploration ended after {self.state.iteration} iterations: between two windows of "
                        f"{self.window} no parameter's mean moved by more than {drift:.2f} of its "
                        f"standard deviation ({parameter})"
                    )
                    if self.branching and done < half:
                        self._branch(recent)
                    break

    def _branch(self, recent: deque[Tensor]) -> None:
        """Let chains go on as several, by their measured autocorrelation."""
        assert self.state is not None
        self.state = branched(self.state, autocorrelation_time(recent))

    def _smooth(self, iterations: int, generator: torch.Generator, line: Progress) -> None:
        """Average statistics and iterates."""
        assert self.state is not None
        for _ in range(iterations):
            self.state = self.algorithm.step(self.state, generator, smoothing=True)
            self._report("smooth", line)
        line.finish("SAEM", self.state.iteration)

    def _judge(self, explored: str, generator: torch.Generator, progress: bool) -> None:
        """Keep the best start, and measure what is left to be had."""
        assert self.state is not None
        self.reason = f"{explored}; then {self.state.smoothing} smoothing iterations, averaged"
        self.certifier = None
        self._choose(generator)
        if self._certifies:
            self._certify(generator, progress)

    def _choose(self, generator: torch.Generator) -> None:
        """Keep the best start."""
        assert self.state is not None
        density, count = self.algorithm.density, self.state.transformed.shape[2]
        self.best, self.ranking = best_start(density, self._standing(), self.state.transformed, generator)
        if self.race is not None:
            won = f"best of the {count} that won" if count > 1 else "winner of"
            self.reason += f"; the {won} a race of {self.starts} starts"
            self.reason += f", {self.ranking}" if count > 1 else ""
        elif count > 1:
            self.reason += f"; best of {count} starts {self.ranking}"

    def _certify(self, generator: torch.Generator, progress: bool) -> None:
        """Measure what is left to be had, and go on where it is much."""
        assert self.state is not None
        density, settings = self.algorithm.density, self.certification
        budget = round(settings.effort * self.state.smoothing)
        values = {name: value[self.best : self.best + 1] for name, value in self._standing().items()}
        try:
            with progress_line(budget, "SAEM certify", progress) as line:
                chains = Chains(
                    self.resting,
                    one_start(self.state, values, self.best),
                    generator,
                    lambda: line.advance("SAEM certify"),
                )
                self.certifier = Certifier(chains, FreeScalars(density.model, values), settings, budget)
                self.certifier.run()
                line.finish("SAEM certify", chains.iterations)
        except (NLMEError, ArithmeticError, torch.linalg.LinAlgError, NotImplementedError) as error:
            self.unmeasured = f"how far the estimates are from the maximum could not be measured: {error}"

    def _standing(self) -> dict[str, Tensor]:
        """The estimates of all starts as they stand."""
        if self.state is None:
            return self.values
        return self.state.average if self.state.smoothing else self.state.values

    def _report(self, phase: str, line: Progress) -> None:
        assert self.state is not None
        self.recorder.add(self.state, phase)
        numbers = self.recorder.headline(self.state) if self.state.iteration % 5 == 0 else None
        line.advance(f"SAEM {phase}", numbers)

    def _tail(self, values: ParameterValues, certificate: Certificate | None) -> Tail:
        """Whether the estimates are in a tail; asked where a direction is flat, or a parameter has gone far."""
        density = self.algorithm.density
        certifier = self.certifier
        unknown = certifier is not None and (
            certificate is None or bool(certificate.flat) or undetermined(certifier.scalars, certifier.deviations)
        )
        if density.model.has_network or not (unknown or far_away(density.model, values)):
            return Tail()
        return tail_of_estimates(density, values)

    def _estimation(self) -> Estimation:
        """Put together what stands."""
        density, certifier = self.algorithm.density, self.certifier
        values = {name: value[self.best : self.best + 1] for name, value in self._standing().items()}
        phi = None if self.state is None else self.state.transformed[:, :, self.best]
        certificate = None if certifier is None else certifier.certificate
        moved = False
        if certifier is not None and certificate is not None:
            moved = not torch.equal(certifier.vector, certifier.scalars.vector)
            values = {name: value.detach() for name, value in certifier.scalars.at(certifier.vector[None]).items()}
            phi = certifier.draws.flatten(1, 2)
        warnings = list(self.warnings)
        if self.unmeasured and certificate is None:
            warnings.append(self.unmeasured)
        ended = Tail()
        if self.status is not Status.INTERRUPTED:
            ended = self._tail(values, certificate)
            warnings += ended.fallen_to_nothing()
        if self.status is Status.INTERRUPTED:
            done = 0 if self.state is None else self.state.iteration
            self.reason = f"interrupted after {done} iterations" + (f" ({self.reason})" if self.reason else "")
            warnings.append(f"the fit was interrupted after {done} iterations: these are the values that stood then")
        elif ended.running:
            self.status = Status.UNBOUNDED
            self.reason += f"; {ended.running}"
            warnings.append(ended.explained())
        elif certificate is not None:
            self.status = Status.CONVERGED if certificate.converged else Status.ITERATIONS_USED
            self.reason += f"; {certificate}"
            if not certificate.converged:
                warnings.append(short_of_maximum(certificate))
        elif self.status is Status.ITERATIONS_USED:
            warnings.append(
                f"exploration used all of its {self.algorithm.schedule.exploration} iterations while parameters still "
                "drifted: allow more (schedule=nlme.StepSchedule(exploration=...)), or begin at these estimates"
            )
        flat = certificate is not None and certificate.converged  # nothing draws the parameters over an edge
        names = () if flat else self.algorithm.by_curvature
        beyond = "" if phi is None else edge(density, values, phi[:, :, None], names)
        if beyond:
            warnings.append(beyond)
            self.reason += f"; {beyond}"
            self.status = Status.STALLED if self.status is Status.CONVERGED else self.status
        if self.unfelt and self.status is Status.CONVERGED:
            self.status = Status.STALLED  # a parameter that was never felt stands where it began
        with torch.no_grad():
            mean = density.at(values).mean
            draws = None if phi is None else phi - mean
        return Estimation(
            values=values,
            trace=self.recorder.frame(self.best, values if moved else None),
            status=self.status,
            termination=self.reason,
            warnings=(*warnings, *collapsed_effects(density, values)),
            draws=draws,
            certificate=certificate,
        )


def branched(state: SAEMState, autocorrelation: float) -> SAEMState:
    """Let chains go on as several until one iteration of all subjects gives enough independent draws."""
    chains, subjects = state.transformed.shape[1], state.transformed.shape[-1]
    wanted = math.ceil(INDEPENDENT_DRAWS * min(autocorrelation, MOST_AUTOCORRELATION) / subjects)
    if wanted <= chains:
        return state
    return state._replace(transformed=state.transformed[:, torch.arange(wanted) % chains])


def short_of_maximum(certificate: Certificate) -> str:
    """Say how much is left, or that it is not known exactly enough, and what to do about it."""
    left = f"{2 * certificate.gain:.2g} +- {2 * certificate.standard_error:.2g} of -2LL"
    if certificate.flat:
        return (
            f"the likelihood is flat along {certificate.flat} at the estimates, so that its score and information "
            f"cannot tell how far the maximum is ({left} by a quadratic): begin again with a larger initial value of "
            f"it, with more chains (chains=...), and compare fit.loglik; or fix it"
        )
    if certificate.gain > certificate.standard_error:
        found = f"the estimates are short of the maximum: about {left} is still to be had"
    else:
        found = f"whether the estimates are at the maximum is not known exactly enough: {left} may still be had"
    return (
        f"{found}; begin again at these estimates, with more chains (chains=...) or a longer "
        "schedule=nlme.StepSchedule(smoothing=...)"
    )


def one_start(state: SAEMState, values: ParameterValues, start: int) -> SAEMState:
    """Return the state of one of several starts, at given values of that start alone."""
    starts = state.transformed.shape[2]
    place = slice(start, start + 1)

    def own(tuning: Tuning) -> Tuning:
        columns = tuning.log_scale.unflatten(-1, (starts, -1))[..., start, :]
        return tuning._replace(log_scale=columns)

    moments, modes = state.moments, state.modes
    if modes is not None:
        factor = modes.factor.unflatten(-1, (starts, -1))[..., start, :]
        modes = ConditionalModes(modes.mode[:, place], factor)
    return state._replace(
        values=dict(values),
        average=dict(values),
        transformed=state.transformed[:, :, place],
        tunings={name: own(tuning) for name, tuning in state.tunings.items()},
        moments=PhiMoments(moments.mean[:, place], moments.covariance[:, :, place], moments.updates),
        modes=modes,
        statistics=None,
        adam=None,
        curvature=None,
    )


def not_felt(density: Density, values: ParameterValues, transformed: Tensor) -> list[str]:
    """Name the parameters that no observation depends on, at draws of the effects."""
    names = tuple(name for name in free_names(density.model) if not name.startswith("_covariances."))
    if not names:
        return []
    first = {name: value[:1] for name, value in values.items()}
    with torch.no_grad():
        eta = transformed[:, :1, :1] - density.at(first).mean[:, None]
    leaf = flatten_values(first, names).detach().requires_grad_()
    with torch.enable_grad():
        moved = unflatten_values(leaf, first, names)
        total = density.at(moved).log_likelihood(eta).sum() + density.log_prior(moved).sum()
        if not total.requires_grad:
            return []
        (slope,) = torch.autograd.grad(total, leaf, materialize_grads=True)
    labels = raw_labels(density.model, names)
    still = [label for label, value in zip(labels, slope[0].tolist(), strict=True) if value == 0.0]
    return [f"the objective does not depend on {', '.join(still[:5])} at the initial values"] if still else []


def collapsed_effects(density: Density, values: ParameterValues) -> tuple[str, ...]:
    """Name the variances that collapsed."""
    messages = []
    model = density.model
    for block in model.blocks:
        if block.covariance is None or not block.covariance.free():
            continue
        deviations = density.at(values).cholesky(block.name)[0].square().sum(-1).sqrt()
        for label, deviation in zip(block.labels, deviations.tolist(), strict=True):
            if deviation < 0.01:
                messages.append(
                    f"the standard deviation of {label} is {deviation:.2g}: the random effect has collapsed; drop it, "
                    "or check that a flexible network does not explain the differences between subjects"
                )
    return tuple(messages[:5])
