"""The objective of a fit: approximate -2 log-likelihood plus priors, with modes that are warm from call to call."""

import math

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import raw_labels
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.expansion_points import (
    TRIAL_STEPS,
    Expansion,
    expand,
    search_modes,
    solves_equations,
)
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.inference.marginal.lagrangian import FullSpace
from nlme_torch.inference.marginal.laplace import is_laplace
from nlme_torch.inference.marginal.scaling import expected_information, prior_curvature
from nlme_torch.inference.marginal.singular_hessian import SINGULAR, smallest_eigenvalues
from nlme_torch.inference.modes.conditional_modes import ModeStatus
from nlme_torch.inference.modes.newton import inner_modes
from nlme_torch.model.declare.values import ParameterValues, flatten_values, unflatten_values
from nlme_torch.model.density.infinite_derivative import infinite_derivative
from nlme_torch.model.density.start_check import check_start

SEARCHES = 8
"""Searches for better modes where a minimisation ends: twice those at the beginning of one without equations."""
BEARABLE = 0.5
"""Share of the subjects whose modes a step may lose."""
CURVATURE_STEP = 3e-3
"""Of differences of the exact gradient, in scaled coordinates whose own size is one."""
AT_EDGE = 0.1
"""How near the edge of where Laplace's approximation is defined, as a share of it, counts as standing there."""

FULL_SPACE_LIMIT = 1000
"""Unknowns up to which dense linear algebra is cheaper than the derivatives."""


class MarginalObjective:
    """Approximate -2 log-likelihood minus twice the log prior, as a function of the free parameters of one start.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        values: Raw name to ``(1, *shape)``: where to begin, and the values of fixed parameters.
        mode_starts: Searches for the mode of every subject at the beginning and at :meth:`restart`; 1 only follows the
            mode from zero.
        seed: Seed of their starting points.
        begin: Standardised effects that are known to be of interest, such as the modes of a fit, ``(effect, 1,
            subject)``; NaN where not known; None: zero.

    Raises:
        FitError: A subject cannot be evaluated at the initial values.
    """

    def __init__(
        self,
        approximation: Approximation,
        values: ParameterValues,
        mode_starts: int = 1,
        seed: int = 0,
        begin: Tensor | None = None,
    ) -> None:
        self.approximation, self.values = approximation, dict(values)
        self.mode_starts, self.seed = mode_starts, seed
        self.initial = flatten_values(values, approximation.names)[0]
        self.centre = approximation.origin(1)
        self.gap: Tensor | None = None
        self.evaluations = self.inner_evaluations = 0
        # Laplace's: the smallest eigenvalue of every subject's Hessian at the last evaluation and where modes were kept
        self.least = self.kept_least = torch.full_like(self.centre[0, 0], torch.inf)
        self.refused = torch.zeros_like(self.least, dtype=torch.bool)
        check_start(approximation.density, values)
        if begin is not None:
            self.centre = begin.nan_to_num(0.0)
        if mode_starts > 1 and approximation.has_modes:
            self._search(self.initial, mode_starts)
        self.centre = self._modes(self._checked(self.initial, gradient=False))
        self.kept = self.centre

    def at(self, vector: Tensor) -> dict[str, Tensor]:
        """Return named values of one vector of free parameters, ``(parameter,)``."""
        return unflatten_values(vector[None], self.values, self.approximation.names)

    def log_prior(self, vector: Tensor) -> Tensor:
        """Return the log prior density of the free parameters, ``()``."""
        return self.approximation.density.log_prior(self.at(vector))[0]

    def expansion(self, vector: Tensor, *, gradient: bool, follow: bool = False, bearable: float = 1.0) -> Expansion:
        """Evaluate from the current modes, without keeping the new ones."""
        found = expand(
            self.approximation, self.at(vector), self.centre, gradient=gradient, follow=follow, bearable=bearable
        )
        self.evaluations += 1
        self.inner_evaluations += found.inner_evaluations
        return found

    def __call__(self, vector: Tensor) -> tuple[float, Tensor]:
        """Return the penalised objective and its gradient, ``(parameter,)``; infinite where it has no value."""
        return self._evaluate(vector)

    def step(self, vector: Tensor) -> tuple[float, Tensor]:
        """Return the same; infinite, too, where most modes are lost, or a Hessian is singular.

        A step after which the modes of most subjects would have to be searched elsewhere was too long, and searches are
        dear where nothing fits. One that brings a subject's Hessian nearer to being singular than Laplace's
        approximation bears leads to where that falls without bound.
        """
        return self._evaluate(vector, bearable=BEARABLE, defined=True)

    def trial(self, vector: Tensor) -> tuple[float, Tensor]:
        """Return the same from the modes kept last; infinite where one cannot be followed or a Hessian is singular."""
        self.centre = self.kept
        found = self._evaluate(vector, follow=True, defined=True)
        self.refused = self.refused | self.blocking()
        return found

    def keep(self) -> None:
        """Keep the modes of the last evaluation."""
        self.kept, self.kept_least = self.centre, self.least
        self.refused = torch.zeros_like(self.least, dtype=torch.bool)

    @property
    def edge(self) -> Tensor:
        """The eigenvalue below which no step may take a subject, or where it stands already, ``(subject,)``."""
        return self.kept_least.clamp_max(SINGULAR)

    def blocked(self) -> Tensor:
        """Which subjects stand at the edge and were taken over it by a trial from here, ``(subject,)``."""
        return self.refused & (self.kept_least < (1 + AT_EDGE) * self.edge)

    def blocking(self) -> Tensor:
        """Which subjects stand at the edge and were taken over it by the last evaluation, ``(subject,)``."""
        return (self.kept_least < (1 + AT_EDGE) * self.edge) & (self.least < self.edge)

    def exchange(self, vector: Tensor) -> bool:
        """Return to the kept modes, or to those of the last trial for subjects where they are better.

        Args:
            vector: The point at which modes were kept.

        Returns:
            Whether a subject changed its mode.
        """
        other, self.centre = self.centre, self.kept
        return self.approximation.has_modes and other is not self.kept and self._improve(vector, other)

    def search(self, vector: Tensor) -> bool:
        """Search the modes anew; whether a subject has a better one than was kept."""
        self.centre = self.kept
        return self.approximation.has_modes and self._search(vector, SEARCHES)

    def metric(self, vector: Tensor) -> Tensor:
        """Return the expected information (of subjects' scores, where there is none) and the prior's curvature."""
        values = self.at(vector)
        if isinstance(self.approximation, Linearised):
            information = expected_information(self.approximation, values, self.centre)
        else:
            scores = subject_gradients(self.approximation, values, self.centre)
            information = 0.5 * scores.mT @ scores
        information = information + torch.diag(prior_curvature(self.approximation, values))
        floor = 1e-6 * float(information.diagonal().mean()) + 1e-12
        return information + torch.diag((floor - information.diagonal()).clamp_min(1e-3 * floor))

    def curvature(self, vector: Tensor, scale: Tensor) -> Tensor:
        """Return the Hessian in scaled coordinates by differences of the gradient, the modes followed.

        Args:
            vector: Where, ``(parameter,)``.
            scale: ``(parameter, coordinate)``.

        Returns:
            ``(coordinate, coordinate)``; that of the identity where a difference cannot be had.
        """
        bends = self.differenced(vector, scale)
        good = torch.isfinite(bends.diagonal())
        identity = torch.eye(len(bends), dtype=bends.dtype, device=bends.device)
        return torch.where(good[:, None] & good, bends, identity)

    def differenced(self, vector: Tensor, scale: Tensor) -> Tensor:
        """Return the same with NaN where a difference cannot be had."""
        steps = torch.cat([torch.zeros_like(scale.mT[:1]), CURVATURE_STEP * scale.mT])
        rows = torch.cat([self.slopes(vector + part) for part in steps.split(max(1, 2000 // self.centre.shape[-1]))])
        self.evaluations += len(steps)
        bends = (rows[1:] - rows[0]) @ scale / CURVATURE_STEP
        return 0.5 * (bends + bends.mT)

    def several(self, vectors: Tensor) -> Tensor:
        """Return the penalised objective at several points near the kept modes, ``(start,)``."""
        starts = len(vectors)
        values = self.at_several(vectors)
        centre = self.kept.expand(-1, starts, -1).contiguous()
        evaluation = expand(self.approximation, values, centre).evaluation
        self.evaluations += 1
        value = evaluation.value
        if is_laplace(self.approximation):
            value = torch.where(smallest_eigenvalues(evaluation.curvature) < self.edge, torch.inf, value)
        total = value.sum(-1) - 2 * self.approximation.density.log_prior(values)
        return torch.where(torch.isfinite(total), total, torch.inf).detach()

    def at_several(self, vectors: Tensor) -> dict[str, Tensor]:
        """Return named values of several vectors of free parameters, ``(start, parameter)``."""
        values = unflatten_values(vectors, self.values, self.approximation.names)
        return {name: value.expand(len(vectors), *value.shape[1:]) for name, value in values.items()}

    def full_space(self) -> FullSpace | None:
        """Return FOCE and FOCEI as functions of parameters and modes at once; None for others, and for very many."""
        approximation = self.approximation
        if not isinstance(approximation, Linearised) or not approximation.has_modes:
            return None
        if self.centre.numel() + len(self.initial) > FULL_SPACE_LIMIT:
            return None
        return FullSpace(approximation, self.values)

    def slopes(self, vectors: Tensor) -> Tensor:
        """Return gradients at several points near the kept modes, ``(start, parameter)``; NaN where there is none."""
        names, starts = self.approximation.names, len(vectors)
        free = vectors.detach().requires_grad_()
        with torch.enable_grad():
            values = unflatten_values(free, self.values, names)
            values = {name: value.expand(starts, *value.shape[1:]) for name, value in values.items()}
            log_prior = self.approximation.density.log_prior(values).sum()
            slopes = torch.autograd.grad(log_prior, free)[0] if log_prior.requires_grad else torch.zeros_like(free)
        values = {name: value.detach() for name, value in values.items()}
        centre = self.kept.expand(-1, starts, -1).contiguous()
        found = expand(self.approximation, values, centre, gradient=True)
        assert found.evaluation.gradient is not None
        finite = torch.isfinite(found.evaluation.value).all(1)
        return torch.where(finite[:, None], found.evaluation.gradient - 2 * slopes, torch.nan)

    def _improve(self, vector: Tensor, starts: Tensor) -> bool:
        """Take the modes that are found from these starts, where they are better than the current ones."""
        with torch.no_grad():
            conditional = self.approximation.density.at(self.at(vector))
        integrand = self.approximation.integrand(conditional)
        found = inner_modes(integrand, starts, steps=TRIAL_STEPS)
        with torch.no_grad():
            here, there = integrand(self.centre[:, None])[0], integrand(found.effects[:, None])[0]
        better = found.usable & (there < here - 1e-6 * (1 + here.abs()))
        self.centre = torch.where(better, found.effects, self.centre)
        return bool(better.any())

    def _evaluate(
        self, vector: Tensor, *, follow: bool = False, bearable: float = 1.0, defined: bool = False
    ) -> tuple[float, Tensor]:
        found = self.expansion(vector, gradient=True, follow=follow, bearable=bearable)
        gradient = found.evaluation.gradient
        assert gradient is not None
        value = float(found.evaluation.value.sum())
        free = vector.detach().requires_grad_()
        with torch.enable_grad():
            log_prior = self.log_prior(free)
            total = gradient[0]
            if log_prior.requires_grad:
                total = total - 2 * torch.autograd.grad(log_prior, free)[0]
        value -= 2 * float(log_prior.detach())
        self.least = torch.full_like(self.kept_least, torch.inf)
        if not (found.finite and bool(torch.isfinite(total).all())):
            return float("inf"), torch.zeros_like(vector)
        if is_laplace(self.approximation):
            self.least = smallest_eigenvalues(found.evaluation.curvature)[0]
            if defined and bool((self.least < self.edge).any()):
                return float("inf"), torch.zeros_like(vector)
        self.centre = self._modes(found)
        return value, total

    def check_gradient(self) -> tuple[str, ...]:
        """Return what the objective does not depend on, as warnings.

        Raises:
            FitError: The objective has a value at the beginning but no gradient.
        """
        found = self.expansion(self.initial, gradient=True).evaluation.gradient
        assert found is not None
        labels = parameter_labels(self.approximation)
        bad = [label for label, slope in zip(labels, found[0].tolist(), strict=True) if not math.isfinite(slope)]
        if bad:
            raise FitError(
                f"the objective has no finite derivative with respect to {', '.join(bad[:5])} at the initial values: "
                "the model is not differentiable there. Look for square roots, powers or logarithms of zero and for "
                "functions with kinks in dynamics, predict and observe; use nlme.SAEM() if they are meant."
            )
        still = [label for label, slope in zip(labels, found[0].tolist(), strict=True) if slope == 0.0]
        if not still:
            return ()
        return (f"the objective does not depend on {', '.join(still[:5])} at the initial values",)

    def restart(self, vector: Tensor) -> bool:
        """Search the best modes anew, wherever they are; whether a subject has a better one than before.

        The better mode is the one of larger joint density; the objective may rise.
        """
        if not self.approximation.has_modes:
            return False
        followed = self.expansion(vector, gradient=False)
        self.centre = torch.where(torch.isfinite(followed.evaluation.value), self._modes(followed), self.centre)
        return self._search(vector, self.mode_starts)

    def _search(self, vector: Tensor, searches: int) -> bool:
        """Take better modes than the current ones, wherever they are; keep how far below the next ones lie."""
        with torch.no_grad():
            conditional = self.approximation.density.at(self.at(vector))
        costly = solves_equations(self.approximation.density.model)
        found = search_modes(self.approximation.integrand(conditional), self.centre, searches, self.seed, costly)
        self.gap = found.gap.reshape(self.centre.shape[1:])
        return self._improve(vector, found.modes.effects.reshape(self.centre.shape))

    def _modes(self, found: Expansion) -> Tensor:
        return found.evaluation.centre if self.approximation.has_modes else self.centre

    def _checked(self, vector: Tensor, *, gradient: bool) -> Expansion:
        found = self.expansion(vector, gradient=gradient)
        if not found.finite:
            bad = (~torch.isfinite(found.evaluation.value[0])).nonzero()[:, 0].tolist()
            density = self.approximation.density
            subject = density.batch.subjects[bad[0]]
            reason = infinite_derivative(density.at(self.at(vector)), self.centre[:, None], 0, bad[0])
            if reason is not None:
                raise FitError(f"no conditional mode can be searched for ({len(bad)} subjects in all): {reason}.")
            raise FitError(
                f"no conditional mode with a positive definite curvature was found for subject {subject!r} at the "
                f"initial values ({len(bad)} subjects in all, status {ModeStatus(int(found.status[0, bad[0]])).name}); "
                "choose other initial values, or more mode_starts."
            )
        return found


def parameter_labels(approximation: Approximation) -> list[str]:
    """Return a short name of every free parameter, in the order of the vector."""
    return raw_labels(approximation.density.model, approximation.names)


def subject_gradients(approximation: Approximation, values: ParameterValues, centre: Tensor) -> Tensor:
    """Return the gradient of every subject's -2 log-likelihood, ``(subject, parameter)``.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        values: Raw name to ``(1, *shape)``.
        centre: The modes there, ``(effect, 1, subject)``.
    """
    subjects = centre.shape[-1]
    pieces = []
    for part in torch.eye(subjects, dtype=centre.dtype, device=centre.device).split(max(1, 4000 // subjects)):
        several = {name: value.expand(len(part), *value.shape[1:]) for name, value in values.items()}
        moved = centre.expand(-1, len(part), -1).contiguous()
        found = approximation.evaluate(several, moved, gradient=True, weights=part)
        assert found.gradient is not None
        pieces.append(found.gradient)
    return torch.cat(pieces)
