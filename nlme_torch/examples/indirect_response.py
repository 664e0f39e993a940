r"""Indirect response to an oral drug, and six rungs of a ladder from a neural ODE to individual networks.

Hours, amounts relative to one dose, volumes in the unit that makes concentrations amounts per volume. The drug raises
the production of a response. Every rung knows a little more than the one before it:

1. ``NeuralODE``: nothing but the number of states.
2. ``GraphNeuralODE``: what flows where; mass is conserved.
3. ``UniversalODE``: the pharmacokinetics.
4. ``TargetedNetwork``: the response's turnover; a network says how the drug acts on it.
5. ``DeepNLME``: that subjects differ in absorption, volume and turnover.
6. ``IndividualNetwork``: that they differ in how the drug acts; ``IndividualWeights`` and ``IndividualResponse`` say
   the same in other ways.

Inputs of the networks are scaled: automatically where the first solution says how large they are, and by the sizes seen
in the data where an untrained network drives the state that it reads (rungs 1 to 3).

References:
    Dayneka, Garg and Jusko (1993), Comparison of four basic models of indirect pharmacodynamic responses.
    doi:10.1007/BF01061691
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.data import Dataset, Regimen
from nlme_torch.model import L2, MLP, Fixed, Latent, LogNormal, Model, Positive, RandomWeights, Scalar, simulate
from nlme_torch.model.individual.individual import Individual

SAMPLES = [float(hour) for hour in range(25)]


class _PharmacokineticsAndResponse(Model):
    """What every model here observes."""

    states = ("depot", "central", "response")

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentration and response with additive errors."""
        return {"yPK": dist.Normal(y.central / p.vc, p.sigma_pk), "yPD": dist.Normal(y.response, p.sigma_pd)}


class _Turnover(_PharmacokineticsAndResponse):
    """One compartment, and a response whose production the drug raises, by a network of the concentration."""

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and the response at rest."""
        return 0.0, 0.0, p.kin / p.kout

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Absorption, elimination, turnover (per hour)."""
        concentration = y.central / p.vc
        return (
            -p.ka * y.depot,
            p.ka * y.depot - p.cl * concentration,
            p.kin * (1 + self.rise(concentration, p)) - p.kout * y.response,
        )

    def rise(self, concentration: Tensor, p: Individual) -> Tensor:
        """Relative rise of the production."""
        return p.effect(concentration)


class SigmoidTurnover(_Turnover):
    """The drug acts by a sigmoid Emax model; subclasses declare the parameters."""

    def rise(self, concentration: Tensor, p: Individual) -> Tensor:
        """The sigmoid Emax model."""
        # not quite zero: the derivative of c^n with respect to n has a logarithm
        power = concentration.clamp_min(1e-9) ** p.n
        return p.smax * power / (p.sc50**p.n + power)


class IndirectResponse(SigmoidTurnover):
    r"""The truth: a sigmoid Emax effect.

    .. math::
        D' = -K_a D, \quad A' = K_a D - CL\, c, \quad R' = K_{in} \Big(1 + \frac{S_{max} c^n}{SC_{50}^n + c^n}\Big)
        - K_{out} R, \quad c = A / V_c, \quad R(0) = K_{in} / K_{out}
    """

    def __init__(self) -> None:
        super().__init__()
        self.smax = LogNormal(2.9, omega=0.1)
        self.sc50 = LogNormal(0.05, omega=0.1)
        self.ka = LogNormal(0.5, omega=0.1)  # 1/h
        self.vc = LogNormal(1.0, omega=0.1)
        self.kout = LogNormal(2.2, omega=0.1)  # 1/h
        self.cl, self.kin, self.n = Positive(1.0), Positive(0.8), Positive(1.5)
        self.sigma_pk, self.sigma_pd = Positive(0.02), Positive(0.1)


class NeuralODE(_PharmacokineticsAndResponse):
    r"""Rung 1: :math:`(D, A, R)' = NN(D, A, R)`; nothing is known but that there are three states.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.change = MLP(3, 6, 6, 3, scale=(1.0, 0.2, 1.0), prior=L2(strength))
        self.vc = Fixed(1.0)  # the centre holds a concentration
        self.r0 = Positive(0.4)
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and an unknown response."""
        return 0.0, 0.0, p.r0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """A network for all three."""
        return p.change(y.depot, y.central, y.response)


class GraphNeuralODE(_PharmacokineticsAndResponse):
    r"""Rung 2: what leaves the depot enters the centre; without drug nothing flows.

    .. math:: D' = -NN_1(D), \quad A' = NN_1(D) - NN_2(A), \quad R' = NN_3(A, R)

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.absorption = MLP(1, 4, 1, increasing=[0], zero_at_zero=True, scale="auto", prior=L2(strength))
        self.elimination = MLP(1, 4, 1, increasing=[0], zero_at_zero=True, scale="auto", prior=L2(strength))
        self.turnover = MLP(2, 6, 1, scale=(0.2, 1.0), prior=L2(strength))
        self.vc, self.r0 = Positive(0.8), Positive(0.4)
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and an unknown response."""
        return 0.0, 0.0, p.r0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Three unknown fluxes."""
        absorbed = p.absorption(y.depot)
        return -absorbed, absorbed - p.elimination(y.central), p.turnover(y.central, y.response)


class UniversalODE(_PharmacokineticsAndResponse):
    r"""Rung 3: known pharmacokinetics, :math:`R' = NN(c, R)`.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.cl, self.vc = Positive(0.4), Positive(1.2), Positive(0.8)
        self.turnover = MLP(2, 6, 1, scale=(0.2, 1.0), prior=L2(strength))
        self.r0 = Positive(0.4)
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and an unknown response."""
        return 0.0, 0.0, p.r0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """One compartment; the response's change is a network."""
        concentration = y.central / p.vc
        return (
            -p.ka * y.depot,
            p.ka * y.depot - p.cl * concentration,
            p.turnover(concentration, y.response),
        )


class TargetedNetwork(_Turnover):
    r"""Rung 4: :math:`R' = K_{in} (1 + NN(c)) - K_{out} R`, and nothing happens without drug.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.cl, self.vc = Positive(0.4), Positive(1.2), Positive(0.8)
        self.kin, self.kout = Positive(1.0), Positive(1.5)
        self.effect = MLP(1, 5, 1, zero_at_zero=True, scale="auto", prior=L2(strength))
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)


class DeepNLME(_Turnover):
    """Rung 5: rung 4 where absorption, volume and turnover differ between subjects.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.vc, self.kout = LogNormal(0.4), LogNormal(0.8), LogNormal(1.5)
        self.cl, self.kin = Positive(1.2), Positive(1.0)
        self.effect = MLP(1, 5, 1, zero_at_zero=True, scale="auto", prior=L2(strength))
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)


class IndividualNetwork(_Turnover):
    r"""Rung 6: every subject has a network of its own, :math:`NN(c, \eta_i)`.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.vc, self.kout = LogNormal(0.4), LogNormal(0.8), LogNormal(1.5)
        self.cl, self.kin = Positive(1.2), Positive(1.0)
        self.z = Latent(1)
        self.effect = MLP(2, 6, 1, scale="auto", prior=L2(strength))
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)

    def rise(self, concentration: Tensor, p: Individual) -> Tensor:
        """A network of the concentration and of a random effect."""
        return p.effect(concentration, p.z)


class IndividualWeights(_Turnover):
    """Rung 6 with random effects on the weights of the network.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.vc, self.kout = LogNormal(0.4), LogNormal(0.8), LogNormal(1.5)
        self.cl, self.kin = Positive(1.2), Positive(1.0)
        self.effect = RandomWeights(MLP(1, 4, 1, zero_at_zero=True, scale="auto", prior=L2(strength)), Scalar(0.1))
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)


class IndividualResponse(_PharmacokineticsAndResponse):
    r"""Rung 3 for individuals: :math:`R' = NN(c, R, \eta_i)`, :math:`R(0) = R_0 e^{s \eta_i}` with the same effect.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.vc, self.cl = LogNormal(0.4), LogNormal(0.8), Positive(1.2)
        self.z = Latent(1)
        self.turnover = MLP(3, 6, 1, scale=(0.2, 1.0, 1.0), prior=L2(strength))
        self.r0, self.spread = Positive(0.4), Positive(0.3)
        self.sigma_pk, self.sigma_pd = Positive(0.1), Positive(0.3)

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and an individual response."""
        return 0.0, 0.0, p.r0 * torch.exp(p.spread * p.z)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """One compartment; the response's change is an individual network."""
        concentration = y.central / p.vc
        return (
            -p.ka * y.depot,
            p.ka * y.depot - p.cl * concentration,
            p.turnover(concentration, y.response, p.z),
        )


def indirect_response_design(subjects: int, seed: int) -> Dataset:
    """Doses of one at 0 and at a second time, which differs between subjects; samples every hour for a day.

    Args:
        subjects: Number of subjects.
        seed: Seed of the second dose's time, Gamma with shape 40 and mean 5 h.

    Returns:
        A design without observations.
    """
    second = np.random.default_rng(seed).gamma(40.0, 5.0 / 40.0, subjects)
    regimens = {k + 1: Regimen(1.0) + Regimen(1.0, time=float(time)) for k, time in enumerate(second)}
    return Dataset.from_regimen(regimens, SAMPLES, subjects=subjects, outputs=["yPK", "yPD"])


def indirect_response_data(subjects: int, seed: int) -> Dataset:
    """Simulate subjects from the truth, :class:`IndirectResponse`.

    Args:
        subjects: Number of subjects.
        seed: Seed of the second dose's time, of the random effects and of the errors.

    Returns:
        Concentrations yPK and responses yPD of every hour.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.indirect_response_data(10, seed=1)
        Dataset of 10 subjects, 270 rows
          observations  yPK 250, yPD 250
          doses         20 rows
    """
    return simulate(IndirectResponse(), indirect_response_design(subjects, seed), seed=seed)
