"""Adaptive Gauss-Hermite quadrature as a method: a fit, and a likelihood at given parameters."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.enough_nodes import FEWEST, raised
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.marginal.quadrature import QuadratureApproximation
from nlme_torch.model.declare.values import ParameterValues, assign, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_at_least

REFITS = 4
"""Fits with ever more nodes that are tried for nodes="auto"."""


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
        return QuadratureApproximation(density, self._enough(density, parameter_values(density.model)))

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
        smallest = QuadratureApproximation(density, FEWEST)
        objective = MarginalObjective(smallest, values, self.searches(density))
        centre = objective.expansion(objective.initial, gradient=False).evaluation.centre

        def rule(nodes: int) -> Tensor | None:
            curved = smallest.with_nodes(nodes)
            return None if curved is None else curved.evaluate(values, centre, gradient=False).value[0]

        return raised(rule)[0]
