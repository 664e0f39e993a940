"""The objective of a fit: approximate -2 log-likelihood plus priors, with modes that are warm from call to call."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.approximation import Approximation, Evaluation, Integrand
from nlme_torch.inference.free_scalars import raw_labels
from nlme_torch.inference.modes import ModeStatus, best_mode, conditional_modes
from nlme_torch.inference.newton import inner_modes
from nlme_torch.model.density import Conditional
from nlme_torch.model.probe import why_not_finite
from nlme_torch.model.values import ParameterValues, flatten_values, unflatten_values

RESCUE_STARTS = 4
NARROW_FROM = 40  # below, leaving subjects out costs more than solving them


@dataclass(frozen=True)
class Expansion:
    """An approximation at its expansion points.

    Attributes:
        evaluation: Value, curvature and perhaps gradient of every subject.
        status: A ``ModeStatus`` of every subject, ``(start, subject)``.
        inner_evaluations: Second-derivative calls that the search of the modes took.
    """

    evaluation: Evaluation
    status: Tensor
    inner_evaluations: int

    @property
    def finite(self) -> bool:
        """Whether every subject could be evaluated at a mode."""
        return bool(torch.isfinite(self.evaluation.value).all())


def expand(
    approximation: Approximation,
    values: ParameterValues,
    centre: Tensor,
    *,
    gradient: bool = False,
    weights: Tensor | None = None,
) -> Expansion:
    """Find the expansion points from a warm start and evaluate the approximation there.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        values: Raw name to ``(start, *shape)``.
        centre: Where to begin, ``(effect, start, subject)``.
        gradient: Whether to differentiate.
        weights: Weight of every subject in the gradient, ``(start, subject)``; None for 1.

    Returns:
        The evaluation; a subject without a mode has an infinite value.
    """
    if not approximation.has_modes:
        evaluation = approximation.evaluate(values, centre, gradient=gradient, weights=weights)
        failed = ~torch.isfinite(evaluation.value)
        return Expansion(evaluation, failed.long() * int(ModeStatus.FAILED), 0)
    with torch.no_grad():
        conditional = approximation.density.at(values)
    integrand = approximation.integrand(conditional)

    def narrow(subjects: Tensor) -> Integrand:
        part = approximation.restricted(subjects)
        with torch.no_grad():
            return part.integrand(part.density.at(values))

    density = approximation.density
    few = narrow if density.model.has_dynamics and density.batch.n_subjects >= NARROW_FROM else None
    found = inner_modes(integrand, centre, narrow=few)
    count = found.evaluations
    if not bool(found.usable.all()):
        elsewhere = search_modes(integrand, centre, conditional, RESCUE_STARTS, 0)
        again = inner_modes(integrand, torch.where(found.usable, found.effects, elsewhere))
        found, count = again, count + again.evaluations
    evaluation = approximation.evaluate(values, found.effects, gradient=gradient, weights=weights)
    value = torch.where(found.usable, evaluation.value, torch.inf)
    return Expansion(evaluation._replace(value=value), found.status, count)


def search_modes(integrand: Integrand, centre: Tensor, conditional: Conditional, starts: int, seed: int) -> Tensor:
    """Return the best of several searches for every subject.

    Args:
        integrand: g, to be minimised.
        centre: A first point, ``(effect, start, subject)``; zero and standard normal draws are further ones.
        conditional: The model at the parameters.
        starts: Number of searches.
        seed: Seed of the draws.

    Returns:
        ``(effect, start, subject)``.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (centre.shape[0], max(starts - 2, 0), *centre.shape[1:])
    draws = torch.randn(shape, generator=generator, dtype=centre.dtype).to(centre.device)
    origins = torch.cat([centre[:, None], torch.zeros_like(centre)[:, None], draws], 1)

    def log_joint(effects: Tensor) -> Tensor:
        value = -integrand(effects.reshape(effects.shape[0], -1, *centre.shape[1:]))
        return value.reshape(effects.shape[1:])

    return best_mode(conditional_modes(log_joint, origins.flatten(-2))).effects.reshape(centre.shape)


class MarginalObjective:
    """Approximate -2 log-likelihood minus twice the log prior, as a function of the free parameters of one start.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        values: Raw name to ``(1, *shape)``: where to begin, and the values of fixed parameters.
        mode_starts: Searches for the mode of every subject at the beginning and at :meth:`restart`.
        seed: Seed of their starting points.

    Raises:
        FitError: A subject cannot be evaluated at the initial values.
    """

    def __init__(
        self, approximation: Approximation, values: ParameterValues, mode_starts: int = 1, seed: int = 0
    ) -> None:
        self.approximation, self.values = approximation, dict(values)
        self.mode_starts, self.seed = mode_starts, seed
        self.initial = flatten_values(values, approximation.names)[0]
        self.centre = approximation.origin(1)
        self.evaluations = self.inner_evaluations = 0
        self._check(values)
        if mode_starts > 1 and approximation.has_modes:
            self.restart(self.initial)
        self.centre = self._modes(self._checked(self.initial, gradient=False))

    def at(self, vector: Tensor) -> dict[str, Tensor]:
        """Return named values of one vector of free parameters, ``(parameter,)``."""
        return unflatten_values(vector[None], self.values, self.approximation.names)

    def log_prior(self, vector: Tensor) -> Tensor:
        """Return the log prior density of the free parameters, ``()``."""
        return self.approximation.density.log_prior(self.at(vector))[0]

    def expansion(self, vector: Tensor, *, gradient: bool) -> Expansion:
        """Evaluate from the current modes, without keeping the new ones."""
        found = expand(self.approximation, self.at(vector), self.centre, gradient=gradient)
        self.evaluations += 1
        self.inner_evaluations += found.inner_evaluations
        return found

    def __call__(self, vector: Tensor) -> tuple[float, Tensor]:
        """Return the penalised objective and its gradient, ``(parameter,)``; infinite where it has no value."""
        found = self.expansion(vector, gradient=True)
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
        if not (found.finite and bool(torch.isfinite(total).all())):
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

    def restart(self, vector: Tensor) -> None:
        """Search the modes anew from several starts, keeping those that are better."""
        with torch.no_grad():
            conditional = self.approximation.density.at(self.at(vector))
        integrand = self.approximation.integrand(conditional)
        self.centre = search_modes(integrand, self.centre, conditional, self.mode_starts, self.seed)

    def _modes(self, found: Expansion) -> Tensor:
        return found.evaluation.centre if self.approximation.has_modes else self.centre

    def _checked(self, vector: Tensor, *, gradient: bool) -> Expansion:
        found = self.expansion(vector, gradient=gradient)
        if not found.finite:
            bad = (~torch.isfinite(found.evaluation.value[0])).nonzero()[:, 0].tolist()
            subject = self.approximation.density.batch.subjects[bad[0]]
            raise FitError(
                f"no conditional mode with a positive definite curvature was found for subject {subject!r} at the "
                f"initial values ({len(bad)} subjects in all, status {ModeStatus(int(found.status[0, bad[0]])).name}); "
                "choose other initial values, or more mode_starts."
            )
        return found

    def _check(self, values: ParameterValues) -> None:
        density = self.approximation.density
        zero = self.approximation.origin(1)[:, None]
        with torch.no_grad():
            conditional = density.at(values)
            bad = (~torch.isfinite(conditional.log_joint(zero))[0, 0]).nonzero()[:, 0].tolist()
        if bad:
            raise FitError(
                f"the log joint density of subject {density.batch.subjects[bad[0]]!r} is not finite at zero effects "
                f"({len(bad)} subjects in all): {why_not_finite(conditional, zero, 0, bad[0])}"
            )


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
