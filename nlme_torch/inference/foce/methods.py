"""FO, FOCE, FOCEI, Laplace and quadrature: likelihood evaluations and estimation methods in one object each.

One class per approximation; every value carries its class's name. What is approximated stands in the room
``marginal``, how the maximum is found in ``maximum_likelihood``.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.maximum_likelihood import maximise
from nlme_torch.inference.foce.settings import MarginalSettings
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.inference.marginal.laplace import Curved, next_rule
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.marginal.quadrature_rule import FEWEST, raised
from nlme_torch.inference.modes.effect_density import StandardisedDensity
from nlme_torch.model.declare.values import ParameterValues, assign, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_at_least

REFITS = 4
"""Fits with ever more nodes that are tried for nodes="auto"."""


@dataclass(frozen=True, kw_only=True)
class MarginalMethod(MarginalSettings):
    """An approximation of the marginal likelihood that can be maximised, and evaluated after a fit.

    Attributes: those of :class:`MarginalSettings`.
    """

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Maximise the approximate likelihood (with priors: the posterior density) from the model's own values.

        Args:
            density: The model, joined to data and solver.
            generator: Source of randomness, for further starts.
            progress: Whether to show a progress line.

        Raises:
            FitError: The model does not suit the method, or a subject cannot be evaluated at the initial values.
        """
        return maximise(self, density, generator, progress)

    def log_marginal(self, density: Density, effects: EffectEstimates, generator: torch.Generator) -> MarginalEstimate:
        """Approximate every subject's log marginal likelihood at the model's own parameters."""
        values = parameter_values(density.model)
        approximation = self.approximation(density)
        known = StandardisedDensity(density.at()).standardise(effects.modes[:, None])
        objective = MarginalObjective(approximation, values, self.searches(density), begin=known)
        found = objective.expansion(objective.initial, gradient=False).evaluation
        value = -0.5 * found.value[0]
        nothing = torch.full_like(value, torch.nan)
        following = next_rule(approximation, values, found.centre)
        return MarginalEstimate(value, torch.zeros_like(value), nothing, nothing, objective.evaluations, following)


@dataclass(frozen=True, kw_only=True)
class FO(MarginalMethod):
    r"""First-order: the model linearised in the effects at zero.

    .. math:: y_i \sim N\!\big(f(0),\; G \Omega G^\top + R(0)\big), \qquad G = \partial f / \partial \eta

    Quick and biased; of use for initial values. Normal and log-normal outcomes only.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, and ``LBFGS()`` above 150 parameters.
        mode_starts: Not used.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> round(nlme.fit(model, data, nlme.FO(), progress=False).ofv, 3)
        103.869

    References:
        Beal and Sheiner (1982), Estimating population kinetics, Crit. Rev. Biomed. Eng. 8, 195-222.
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Linearised(density, "FO")


@dataclass(frozen=True, kw_only=True)
class FOCE(MarginalMethod):
    r"""First-order conditional estimation without interaction: the residual variance stays at its value for eta = 0.

    .. math:: H_i = \Omega^{-1} + \sum_j a_j a_j^\top / r_j(0), \qquad a = \partial f / \partial \eta

    r is frozen in the search of the modes and in the objective alike, as in NONMEM. Normal and log-normal outcomes
    only.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    References:
        Lindstrom and Bates (1990), Nonlinear mixed effects models for repeated measures data. doi:10.2307/2532087
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Linearised(density, "FOCE")


@dataclass(frozen=True, kw_only=True)
class FOCEI(MarginalMethod):
    r"""First-order conditional estimation with interaction between effects and residual variance.

    .. math:: H_i = \Omega^{-1} + \sum_j \big(a_j a_j^\top / r_j + \tfrac12 c_j c_j^\top\big), \qquad
              a = \partial f / \partial \eta,\; c = \partial \log r / \partial \eta

    Normal and log-normal outcomes only.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> round(fit.ofv, 3)
        116.803

    References:
        Wang (2007), Derivation of various NONMEM estimation methods. doi:10.1007/s10928-007-9060-6
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Linearised(density, "FOCEI")


@dataclass(frozen=True, kw_only=True)
class Laplace(MarginalMethod):
    r"""Laplace's approximation with the exact Hessian and with interaction; any outcome.

    .. math:: -2 \log p(y_i) \approx 2 g(\hat\eta_i) + \log |\nabla^2 g(\hat\eta_i)|

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    References:
        Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
        doi:10.1080/01621459.1986.10478240
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Curved(density)


@dataclass(frozen=True, kw_only=True)
class Quadrature(MarginalMethod):
    """Adaptive Gauss-Hermite quadrature around each mode, for a handful of effects: exact as nodes grow.

    The error of a rule is seen from the next one, with two more nodes per effect, which every value is printed with;
    where they differ by more than 0.05 in -2LL a fit warns.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.
        nodes: Nodes per effect; "auto" raises them until the next rule moves -2LL by less than 0.05, and fits again.

    References:
        Pinheiro and Bates (1995), Approximations to the log-likelihood function in the nonlinear mixed-effects model.
        doi:10.1080/10618600.1995.10474663
    """

    nodes: int | Literal["auto"] = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, FitError, 1, "nodes")

    @property
    def name(self) -> str:
        """What the values of this method are called."""
        return f"Quadrature(nodes={self.nodes})"

    def __str__(self) -> str:
        return self.name

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data; "auto" chooses at the model's own parameters."""
        return Curved(density, self._enough(density, parameter_values(density.model)))

    def at(self, density: Density, values: ParameterValues) -> "Quadrature":
        """Return the rule with a number of nodes."""
        return replace(self, nodes=self._enough(density, values))

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Maximise the likelihood; with "auto", again with more nodes where the estimates ask for them.

        Args:
            density: The model, joined to data and solver.
            generator: Source of randomness, for further starts.
            progress: Whether to show a progress line.

        Raises:
            FitError: The model does not suit the method, or a subject cannot be evaluated at the initial values.
        """
        if self.nodes != "auto":
            return super().estimate(density, generator, progress)
        initial = parameter_values(density.model)
        rule = self.at(density, initial)
        try:
            for _ in range(REFITS):
                found = rule.estimate(density, generator, progress)
                if found.status is Status.INTERRUPTED:
                    break
                assign(density.model, found.values)
                following = self.at(density, found.values)
                if following._count <= rule._count:
                    break
                rule = following
        finally:
            assign(density.model, initial)
        return found

    @property
    def _count(self) -> int:
        return 0 if self.nodes == "auto" else self.nodes

    def _enough(self, density: Density, values: ParameterValues) -> int:
        """The nodes that were given, or as many as suffice at these parameters."""
        if self.nodes != "auto":
            return self.nodes
        smallest = Curved(density, FEWEST)
        objective = MarginalObjective(smallest, values, self.searches(density))
        centre = objective.expansion(objective.initial, gradient=False).evaluation.centre

        def rule(nodes: int) -> Tensor | None:
            curved = smallest.with_nodes(nodes)
            return None if curved is None else curved.evaluate(values, centre, gradient=False).value[0]

        return raised(rule)[0]
