"""Networks whose weights differ between subjects."""

import torch
from torch import Tensor, nn

from nlme_torch.errors import ModelError
from nlme_torch.model.networks.module_network import ModuleNetwork
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.random_effects.covariance import LowRank, Scalar, Structure


class RandomWeights(nn.Module):
    r"""A network with random effects on its weights.

    .. math:: w_i = w + \eta_i, \quad \eta_i \sim N(0, \Omega)
              \qquad\text{or}\qquad w_i = w + B z_i, \quad z_i \sim N(0, I_q)

    Args:
        network: ``MLP`` or any ``nn.Module``; its own weights are the population weights w.
        omega: ``Scalar``, ``Diagonal``, ``Full``, ``Fixed`` for the covariance of eta, or ``LowRank(q)`` for B.

    Raises:
        ModelError: The rank is larger than the number of weights, or omega is no structure.

    Example:
        >>> import nlme_torch as nlme
        >>> uptake = nlme.RandomWeights(nlme.MLP(1, 2, 1), omega=nlme.Fixed(1.0))
    """

    def __init__(self, network: nn.Module, omega: Structure | LowRank | None = None) -> None:
        super().__init__()
        self.network = network if isinstance(network, Network) else ModuleNetwork(network)
        self.omega = Scalar(0.1) if omega is None else omega
        if not isinstance(self.omega, Structure | LowRank):
            raise ModelError(f"RandomWeights: omega must be Scalar, Diagonal, Full, Fixed or LowRank, got {omega!r}.")
        count = len(self.network.weights)
        if isinstance(self.omega, LowRank):
            if self.omega.rank > count:
                raise ModelError(f"LowRank({self.omega.rank}) exceeds the {count} weights of {self.network}.")
            rows, columns = torch.tril_indices(count, self.omega.rank)
            self._rows, self._columns = rows, columns
            self.loading = nn.Parameter(self.omega.scale * (rows == columns).double())

    @property
    def low_rank(self) -> bool:
        """Whether the weights vary along few directions."""
        return isinstance(self.omega, LowRank)

    @property
    def n_effects(self) -> int:
        """Number of random effects per subject."""
        return self.omega.rank if isinstance(self.omega, LowRank) else len(self.network.weights)

    def loading_matrix(self, loading: Tensor) -> Tensor:
        """Unpack B, ``(start, weight, effect)``, from its entries ``(start, entry)``."""
        matrix = loading.new_zeros(loading.shape[0], len(self.network.weights), self.n_effects)
        matrix[:, self._rows, self._columns] = loading
        return matrix

    def pack_loading(self, matrix: Tensor) -> Tensor:
        """Return the packed entries ``(start, entry)`` of lower-triangular matrices ``(start, weight, effect)``."""
        return matrix[:, self._rows, self._columns]

    def loading_entries(self) -> list[tuple[int, int]]:
        """Return (weight, effect) of every entry of the packed loading."""
        return list(zip(self._rows.tolist(), self._columns.tolist(), strict=True))
