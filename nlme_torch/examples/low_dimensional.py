r"""Small networks whose weights differ between subjects: one hidden layer of five units on the concentration.

Three studies of twenty subjects with six samples each: an intravenous dose, an oral dose, and a response. Hours, mg, L.
In every one the truth has a closed shape that the network has to find, and subjects differ in it, so that each has
a network of its own, :math:`w_i = w + \eta_i`.

References:
    Braem, Nahum, Schropp, Pfister and Koch (2023), Low-dimensional neural ODEs and their application in
    pharmacokinetics. doi:10.1007/s10928-023-09886-4
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.data import Dataset, Regimen
from nlme_torch.model import L2, MLP, LogNormal, Model, Positive, RandomWeights, Scalar, simulate
from nlme_torch.model.individual.individual import Individual

SAMPLES = [0.0, 2.8, 5.5, 10.4, 15.1, 23.6]
DOSE = 100.0  # mg


class _Intravenous(Model):
    """A bolus into one compartment, and the concentration."""

    states: ClassVar[tuple[str, ...]] = ("central",)

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug."""
        return (0.0,)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Amount (mg/h)."""
        return (-p.v * self.elimination(y.central / p.v, p),)

    def elimination(self, concentration: Tensor, p: Individual) -> Tensor:
        """Fall of the concentration (mg/L/h)."""
        raise NotImplementedError

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentration with additive error."""
        return {"conc": dist.Normal(y.central / p.v, p.sigma)}


class _Oral(_Intravenous):
    """The same behind a depot."""

    states: ClassVar[tuple[str, ...]] = ("depot", "central")

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug."""
        return 0.0, 0.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Amounts (mg/h)."""
        absorbed = p.ka * y.depot
        return -absorbed, absorbed - p.v * self.elimination(y.central / p.v, p)


class _Response(Model):
    """A drug that falls exponentially, and a response whose production it lowers."""

    states = ("central", "response")

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and the response at rest."""
        return 0.0, p.rest

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Amount (mg/h) and response (per hour)."""
        return -0.15 * y.central, p.kout * (p.rest * self.production(y.central / 20.0, p) - y.response)

    def production(self, concentration: Tensor, p: Individual) -> Tensor:
        """Relative production: one without drug."""
        raise NotImplementedError

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """The response with additive error."""
        return {"response": dist.Normal(y.response, p.sigma)}


class IntravenousTruth(_Intravenous):
    r"""Saturable elimination, :math:`c' = -\frac{V_{max}\, c}{K_m + c}`; variances of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.vmax = LogNormal(20.0, omega=0.1), LogNormal(0.7, omega=0.1)  # L, mg/L/h
        self.km, self.sigma = Positive(3.0), Positive(0.1)  # mg/L

    def elimination(self, concentration: Tensor, p: Individual) -> Tensor:
        """Half of its maximum at Km."""
        return p.vmax * concentration / (p.km + concentration)


class OralTruth(_Oral):
    """The elimination of :class:`IntravenousTruth` after first-order absorption; variances of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.ka = LogNormal(0.4, omega=0.1)  # 1/h
        self.v, self.vmax = LogNormal(20.0, omega=0.1), LogNormal(0.7, omega=0.1)  # L, mg/L/h
        self.km, self.sigma = Positive(3.0), Positive(0.1)  # mg/L

    def elimination(self, concentration: Tensor, p: Individual) -> Tensor:
        """Half of its maximum at Km."""
        return p.vmax * concentration / (p.km + concentration)


class ResponseTruth(_Response):
    r"""Inhibited production, :math:`R' = k_{out} \big(R_0 (1 - \frac{c}{IC_{50} + c}) - R\big)`; variances of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.rest, self.ic50 = LogNormal(10.0, omega=0.1), LogNormal(1.0, omega=0.1)  # any unit, mg/L
        self.kout, self.sigma = Positive(0.3), Positive(0.3)  # 1/h

    def production(self, concentration: Tensor, p: Individual) -> Tensor:
        """Half at IC50."""
        return p.ic50 / (p.ic50 + concentration)


class IntravenousNetwork(_Intravenous):
    r"""An individual network for the elimination, :math:`c' = -NN(c; w_i)`, increasing and zero at zero.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.v, self.sigma = LogNormal(25.0, omega=0.1), Positive(0.2)
        self.network = _elimination(strength)

    def elimination(self, concentration: Tensor, p: Individual) -> Tensor:
        """The network."""
        return p.network(concentration)


class OralNetwork(_Oral):
    """The network of :class:`IntravenousNetwork` after first-order absorption.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka = LogNormal(0.6, omega=0.1)
        self.v, self.sigma = LogNormal(25.0, omega=0.1), Positive(0.2)
        self.network = _elimination(strength)

    def elimination(self, concentration: Tensor, p: Individual) -> Tensor:
        """The network."""
        return p.network(concentration)


class ResponseNetwork(_Response):
    r"""An individual network for the drug's effect, :math:`R' = k_{out} (R_0 e^{NN(c; w_i)} - R)`, one without drug.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.rest, self.kout, self.sigma = LogNormal(8.0, omega=0.1), Positive(0.5), Positive(0.5)
        network = MLP(1, 5, 1, decreasing=[0], zero_at_zero=True, scale=(2.0,), prior=L2(strength))
        self.network = RandomWeights(network, Scalar(0.1))

    def production(self, concentration: Tensor, p: Individual) -> Tensor:
        """The network."""
        return torch.exp(p.network(concentration))


def _elimination(strength: float) -> RandomWeights:
    """One hidden layer of five units, increasing and zero at zero, with effects on its ten weights."""
    return RandomWeights(MLP(1, 5, 1, increasing=[0], zero_at_zero=True, scale=(5.0,), prior=L2(strength)), Scalar(0.1))


def low_dimensional_design(subjects: int, output: str = "conc") -> Dataset:
    """One dose of 100 mg into the first compartment, six samples in a day.

    Args:
        subjects: Number of subjects.
        output: What will be observed, ``"conc"`` or ``"response"``.

    Returns:
        A design without observations.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.low_dimensional_design(20)
        Dataset of 20 subjects, 140 rows
          observations  conc 0
          doses         20 rows
    """
    return Dataset.from_regimen(Regimen(DOSE), SAMPLES, subjects=subjects, outputs=output)


def low_dimensional_data(truth: Model, subjects: int, seed: int) -> Dataset:
    """Simulate subjects from one of the truths of this file.

    Args:
        truth: ``IntravenousTruth()``, ``OralTruth()`` or ``ResponseTruth()``.
        subjects: Number of subjects.
        seed: Seed of random effects and errors.

    Returns:
        Concentrations or responses.
    """
    output = "response" if isinstance(truth, _Response) else "conc"
    return simulate(truth, low_dimensional_design(subjects, output), seed=seed)
