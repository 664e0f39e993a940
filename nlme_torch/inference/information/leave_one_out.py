r"""What subjects would be worth to a model that had not been fitted to them, without a second fit.

Linearised at the conditional modes, :math:`y_i \sim N(m_i(\theta), V_i(\theta))` with
:math:`m_i = f_i - G_i \hat\eta_i`, :math:`V_i = G_i \Omega G_i^\top + R_i` and :math:`G = \partial f / \partial \eta`.
With scores s, expected informations I and P minus the second derivative of the log prior, a fit without subject i
differs by

.. math:: \theta^{(-i)} - \hat\theta \approx -\Big(P + \sum_{k \ne i} I_k\Big)^{-1} s_i

and the likelihood of subject i is that of its normal distribution there, with f solved anew. For a model linear in its
parameters with known variances it is exact. Otherwise the step d ends beside the optimum of the others: with H the
curvature of their penalised likelihood, it promises them :math:`q = d^\top H d / 2` and gives them g. What is missing,
e, has about :math:`e^\top H e = 2 |g - q|`, and the score of subject i has the length :math:`\sqrt{2q}` in the same
metric, so that its -2LL errs by about :math:`4 \sqrt{|g - q| q}`. Twice that is stated as the error. Where it is
large, or a step serves the other subjects worse than none, nothing is estimated. Logarithms of standard deviations of
random effects count as known to about one: a collapsed one does not run away.

References:
    Allen (1974), The relationship between variable selection and data augmentation and a method for prediction.
    doi:10.1080/00401706.1974.10489157
    Giordano et al. (2019), A Swiss army infinitesimal jackknife, AISTATS. arXiv:1806.00550
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.marginal.normal_records import NormalRecords
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.raw_parameters import names_of_omega
from nlme_torch.model.declare.values import (
    ParameterValues,
    flatten_values,
    free_names,
    parameter_values,
    unflatten_values,
)
from nlme_torch.model.density.density import Density

COLUMNS = 20_000
"""Subjects times copies in one call: some 100 MB of doubles for a few hundred records."""
STEP = 1e-3
"""Of central differences of exact derivatives: their error is its square, a millionth."""
TOLERATED = 1.0
"""Of -2 log-likelihood by which a step without a subject may miss before it counts as harmful."""
UNKNOWN = 5.0
"""Of -2 log-likelihood: an error from which nothing is printed, as models are told apart by less."""
MOST = 60
"""Subjects without whom a step is tried: a mean over them is off by an eighth of their spread."""
LARGEST = 5e9
"""Subjects times the cube of the parameters: operations of some seconds."""
OVERFITTED = 0.1
"""Inflation from which the text of a fit names it."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Estimated likelihoods of subjects under fits without them; it prints as a sentence.

    Attributes:
        subjects: One row per subject: id, fitted and left_out (-2LL), and error, by how much left_out may differ from
            -2LL under a fit without the subject; of many subjects only some are left out, NaN stands for the others.
        n_observations: Number of observations.
        linearisation_error: The mean of these errors, which come of models that are not linear in their parameters.
    """

    subjects: pd.DataFrame
    n_observations: int
    linearisation_error: float = math.nan

    @property
    def minus2ll(self) -> float:
        """-2 log-likelihood of all subjects, each under the fit without it."""
        return float(self.subjects["fitted"].sum()) + self.loss

    @property
    def loss(self) -> float:
        """How much higher that is than -2LL of the fit."""
        return len(self.subjects) * float((self.subjects["left_out"] - self.subjects["fitted"]).mean())

    @property
    def standard_error(self) -> float:
        """Of the loss, over subjects."""
        found = (self.subjects["left_out"] - self.subjects["fitted"]).dropna()
        return float(found.std()) * len(self.subjects) / math.sqrt(len(found))

    @property
    def inflation(self) -> float:
        """The loss as a relative rise of all residual errors, exp(loss / 2n) - 1."""
        return math.expm1(min(self.loss / (2 * self.n_observations), 700.0))

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence where subjects that were not fitted are predicted clearly worse."""
        if not self.inflation > OVERFITTED:
            return ()
        return (
            "wins training, loses hold-out: left out of the fit, a subject would be predicted as badly as if residual "
            f"errors were {_percent(self.inflation)} larger (estimated); try stronger priors, a smaller network or "
            "more subjects, and judge by nlme.cross_validate or nlme.held_out",
        )

    def __str__(self) -> str:
        fitted = float(self.subjects["fitted"].mean())
        left = self.minus2ll / len(self.subjects)
        far = left - fitted > 1000
        text = f"-2LL per subject {fitted:.2f} when fitted, {'far above' if far else f'about {left:.2f}'} when left out"
        return text if math.isnan(self.linearisation_error) else f"{text} (+-{self.linearisation_error:.2g})"

    __repr__ = __str__


def leave_one_out(fit: Fitted) -> LeaveOneOut:
    """Estimate how well a fit predicts subjects that it has not seen, from the fit itself.

    The likelihood of the fitted subjects gains from every weight that a network is given; this does not. A model with a
    network prints it unasked. It costs some solutions at shifted parameters; held-out subjects
    (:func:`nlme.held_out`, :func:`nlme.cross_validate`) are better evidence and cost more.

    Args:
        fit: The fit, of normal or log-normal outcomes.

    Returns:
        Likelihoods with and without every subject.

    Raises:
        FitError: An outcome is neither normal nor log-normal, values are censored, the model cannot be solved near its
            estimates, it is too far from linear in its parameters, or it has too many of them for so many subjects.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> nlme.leave_one_out(fit)
        -2LL per subject 29.95 when fitted, about 31.73 when left out (+-1.5)
    """
    check_fit("leave_one_out", fit)
    density, values = fit.density, parameter_values(fit.model)
    if any(outcome.censoring is not None for outcome in density.batch.outcomes.values()):
        raise FitError("leave_one_out linearises normal outcomes, and some values are censored; use nlme.held_out.")
    count = sum(values[name].numel() for name in free_names(density.model))
    if not count or fit.data.n_subjects * count**3 > LARGEST:
        raise FitError(
            f"leave_one_out: {count} parameters of {fit.data.n_subjects} subjects; use nlme.cross_validate or "
            "nlme.held_out."
        )
    if not bool(torch.isfinite(fit.effects.modes).all()):
        raise FitError("leave_one_out: the conditional mode of a subject is not known; cross-validate instead.")
    normal = _Normal.expand(density, values, fit.effects.modes)
    gains, errors = normal.gain_without_one()
    rise, error = -2 * gains, float(errors.nanmean())
    fitted = -2 * fit.log_likelihood.subjects["log_likelihood"].to_numpy()
    left_out = fitted + rise.numpy(force=True)
    subjects = {"id": fit.data.subjects, "fitted": fitted, "left_out": left_out, "error": errors.numpy(force=True)}
    table = pd.DataFrame(subjects)
    return LeaveOneOut(table, fit.data.n_observations, error)


@dataclass(frozen=True)
class _Normal:
    """Every subject's observations as a normal distribution whose mean and log variances are linear in the parameters.

    Attributes:
        density: The model.
        values: Raw name to ``(1, *shape)``.
        names: Names of the free parameters.
        records: The observations.
        modes: ``(effect, subject)``, where it is expanded.
        residuals: ``(subject, record)``, from the mean of the marginal distribution.
        log_variances: ``(subject, record)``, of the residual errors; zero where nothing was observed.
        effect_slopes: ``(subject, record, effect)``.
        slopes: ``(subject, record, parameter)``.
        bends: ``(subject, record, parameter)``, of the log variances.
    """

    density: Density
    values: ParameterValues
    names: tuple[str, ...]
    records: NormalRecords
    modes: Tensor
    residuals: Tensor
    log_variances: Tensor
    effect_slopes: Tensor
    slopes: Tensor
    bends: Tensor

    @staticmethod
    def expand(density: Density, values: ParameterValues, modes: Tensor) -> "_Normal":
        """Expand the model at the modes, by central differences."""
        records, names = NormalRecords(density, "leave_one_out"), free_names(density.model)
        vector = flatten_values(values, names)[0]

        def predict(vectors: Tensor, effects: Tensor) -> tuple[Tensor, Tensor]:
            """Locations and log variances at ``(start, parameter)`` and ``(effect, start, subject)``."""
            with torch.no_grad():
                conditional = density.at(unflatten_values(vectors, values, names))
                location, log_variance, _ = records.predict(conditional, effects[:, None])
            return location[:, 0], log_variance[:, 0]

        def differences(count: int, of_parameters: bool) -> tuple[Tensor, Tensor]:
            """Derivatives ``(subject, record, direction)`` of both."""
            found: list[list[Tensor]] = [
                [records.observed.new_zeros(len(records.observed), 0, modes.shape[1])] for _ in "fr"
            ]
            for part in (STEP * torch.eye(count).to(modes)).split(max(1, COLUMNS // modes.shape[1])):
                ends = []
                for moved in (part, -part):
                    vectors = vector + moved if of_parameters else vector.expand(len(part), -1)
                    effects = modes[:, None].expand(-1, len(part), -1)
                    ends.append(predict(vectors, effects if of_parameters else effects + moved.mT[:, :, None]))
                for pieces, up, down in zip(found, *ends, strict=True):
                    pieces.append((up - down) / (2 * STEP))
            location, log_variance = (weight * torch.cat(pieces, 1).permute(2, 0, 1) for pieces in found)
            return location, log_variance

        weight = records.weight[:, 0].mT[..., None]
        location, log_variance = (value[:, 0].mT for value in predict(vector[None], modes[:, None]))
        effect_slopes, _ = differences(len(modes), of_parameters=False)
        slopes, bends = differences(len(vector), of_parameters=True)
        residuals = weight[..., 0] * (records.observed[:, 0].mT - location)
        residuals = residuals + (effect_slopes @ modes.mT[..., None])[..., 0]
        log_variances = torch.where(weight[..., 0] > 0, log_variance, 0.0)
        if not all(bool(torch.isfinite(value).all()) for value in (residuals, log_variances, effect_slopes, slopes)):
            raise FitError("leave_one_out: the model cannot be solved for every subject near its estimates.")
        return _Normal(density, values, names, records, modes, residuals, log_variances, effect_slopes, slopes, bends)

    def omega(self, moves: Tensor) -> Tensor:
        """Covariance of the random effects at moved parameters ``(start, parameter)``."""
        with torch.no_grad():
            vectors = flatten_values(self.values, self.names) + moves
            return self.density.at(unflatten_values(vectors, self.values, self.names)).covariance()

    def log_density(self, moves: Tensor) -> Tensor:
        """Log density ``(start, subject)`` without constants at moved parameters ``(start, parameter)``."""
        vectors = flatten_values(self.values, self.names) + moves
        effects = self.modes[:, None, None].expand(-1, -1, len(moves), -1)
        with torch.no_grad():
            conditional = self.density.at(unflatten_values(vectors, self.values, self.names))
            location, log_variance, _ = self.records.predict(conditional, effects)
        seen = self.records.weight[:, 0].mT > 0
        location, log_variance = (value[:, 0].permute(1, 2, 0) for value in (location, log_variance))
        drawn = (self.effect_slopes @ self.modes.mT[..., None])[..., 0]
        residuals = torch.where(seen, self.records.observed[:, 0].mT - location, 0.0) + drawn
        noise = torch.where(seen, torch.exp(log_variance), 1.0)
        spread = self.effect_slopes @ self.omega(moves)[:, None] @ self.effect_slopes.mT
        factor, failed = torch.linalg.cholesky_ex(spread + torch.diag_embed(noise))
        white = torch.linalg.solve_triangular(factor, residuals[..., None], upper=False)[..., 0]
        value = -0.5 * white.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.where((failed == 0) & torch.isfinite(value), value, -torch.inf)

    def log_prior(self, moves: Tensor) -> Tensor:
        """Log prior density ``(start,)`` of the parameters moved by ``(start, parameter)``."""
        vectors = flatten_values(self.values, self.names) + moves
        return self.density.log_prior(unflatten_values(vectors, self.values, self.names)).detach()

    def gain_without_one(self) -> tuple[Tensor, Tensor]:
        """Change of every subject's log density when it is left out, and by how much its -2LL may err.

        Returns:
            Two tensors ``(subject,)``; NaN for subjects that are not left out.

        Raises:
            FitError: A step serves the other subjects worse than none, or the error is larger than 5 and than
                half of what it is an error of: what is linearised is not nearly linear.
        """
        scores, informations = self._scores_and_informations()
        steps, subjects = self.without_one(scores, informations), self.modes.shape[1]
        chosen = torch.linspace(0, subjects - 1, min(subjects, MOST)).round().long().to(steps.device)
        nowhere = torch.zeros_like(steps[:1])
        now, prior_now = self.log_density(nowhere)[0], self.log_prior(nowhere)
        gains, errors = torch.full_like(now, torch.nan), torch.full_like(now, torch.nan)
        total = informations.sum(0) + self._prior_precision()
        harmful = 0
        for part in chosen.split(max(1, COLUMNS // subjects)):
            moves = steps[part]
            found = self.log_density(moves)
            own = found[torch.arange(len(part)), part]
            others = found.sum(-1) - own + self.log_prior(moves) - (now.sum() - now[part] + prior_now)
            harmful += int((~(others > -TOLERATED)).sum())
            gains[part] = own - now[part]
            bent = torch.einsum("sp,spq,sq->s", moves, total - informations[part], moves)
            promised = 0.5 * bent.clamp_min(0.0)
            errors[part] = 8 * ((others - promised).abs() * promised).sqrt()
        if harmful:
            raise FitError(
                f"leave_one_out: without {harmful} of {len(chosen)} subjects the estimates would move farther than the "
                "model is linear in them, so that their likelihoods cannot be estimated from this fit; "
                "nlme.cross_validate(model, data, method) measures them."
            )
        error, rise = float(errors.nanmean()), float(-2 * gains.nanmean())
        if not error < max(UNKNOWN, rise / 2):
            raise FitError(
                f"leave_one_out: -2LL of a left-out subject is known to +-{error:.2g} only, as the model is not nearly "
                "linear in its parameters; nlme.cross_validate(model, data, method) measures it."
            )
        return gains, errors

    def without_one(self, scores: Tensor, informations: Tensor) -> Tensor:
        """How the parameters would move if a subject were left out, ``(subject, parameter)``."""
        total = informations.sum(0) + self._prior_precision()
        if not bool(torch.isfinite(total).all()):
            raise FitError("leave_one_out: the information about the parameters is not finite at the estimates.")
        sizes, vectors = torch.linalg.eigh(total)
        kept = sizes > 1e-10 * sizes[-1:]
        whiten = vectors[:, kept] / sizes[kept].sqrt()
        # in units where the information of all is one; what no other subject knows of stays as it is fitted
        shares, vectors = linear_algebra.symmetric_eigen(whiten.mT @ informations @ whiten)
        inside = vectors.mT @ whiten.mT @ scores[..., None]
        moved = torch.where(shares < 1 - 1e-6, -1 / (1 - shares), 0.0)[..., None] * inside
        return (whiten @ vectors @ moved)[..., 0]

    def _scores_and_informations(self) -> tuple[Tensor, Tensor]:
        """Gradients ``(subject, parameter)`` and expected second derivatives of the subjects' log densities."""
        count = self.slopes.shape[-1]
        steps = STEP * torch.eye(count).to(self.slopes)
        by_omega = (self.omega(steps) - self.omega(-steps)) / (2 * STEP)
        noise = torch.exp(self.log_variances)
        omega = self.omega(torch.zeros_like(steps[:1]))
        marginal = self.effect_slopes @ omega @ self.effect_slopes.mT + torch.diag_embed(noise)
        factor, failed = torch.linalg.cholesky_ex(marginal)
        if bool(failed.any()):
            raise FitError("leave_one_out: a subject's observations have a singular covariance.")
        white, residuals, effects = (
            torch.linalg.solve_triangular(factor, value, upper=False)
            for value in (self.slopes, self.residuals[..., None], self.effect_slopes)
        )
        scores = (white.mT @ residuals)[..., 0]
        informations = white.mT @ white
        changing = [k for k in range(count) if bool((by_omega[k] != 0).any() | (self.bends[..., k] != 0).any())]
        spread = torch.linalg.solve_triangular(factor, torch.diag_embed(noise.sqrt()), upper=False)
        changes = []
        for k in changing:
            change = effects @ by_omega[k] @ effects.mT + (spread * self.bends[:, None, :, k]) @ spread.mT
            scores[:, k] += 0.5 * (
                (residuals.mT @ change @ residuals)[:, 0, 0] - change.diagonal(dim1=-2, dim2=-1).sum(-1)
            )
            changes.append(change.flatten(1))
        if changing:
            flat, where = torch.stack(changes, 1), torch.tensor(changing, device=scores.device)
            informations[:, where[:, None], where] += 0.5 * flat @ flat.mT
        return scores, informations

    def _prior_precision(self) -> Tensor:
        """Minus the second derivatives of the log prior where they curve it downwards, ``(parameter, parameter)``."""
        shapes = [(name, self.values[name][0].numel()) for name in self.names]
        omegas = names_of_omega(self.density.model)
        known = torch.cat([torch.full((count,), float(name in omegas)) for name, count in shapes])
        point = flatten_values(self.values, self.names)[0].requires_grad_()
        log_prior = self.density.log_prior(unflatten_values(point[None], self.values, self.names))[0]
        precision = known.to(point)
        if log_prior.requires_grad:
            (gradient,) = torch.autograd.grad(log_prior, point, create_graph=True)
            if gradient.requires_grad:
                # priors are products over parameters: the Hessian is diagonal
                (diagonal,) = torch.autograd.grad(gradient.sum(), point, materialize_grads=True)
                precision = precision + (-diagonal).clamp_min(0.0)
        return torch.diag(precision)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 10 else "many times"
