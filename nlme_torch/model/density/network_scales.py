r"""The typical size of what networks are given and of what they give, by which ``MLP`` scales itself.

``scale="auto"`` divides the inputs by

.. math:: s_k = \sqrt{\frac1n \sum_{i, r} x_k(t_{ir}; \eta_i = 0)^2}

over all calls of the network along the solutions of all subjects at their records, at the model's own values. Networks
themselves take part in that solution: it is only as good as the initial values. With ``scale="standard"`` the mean of
the inputs is subtracted, and s is the standard deviation about it.

``output_scale="auto"`` multiplies output k by the size at which it moves the predictions by as much as the data vary,

.. math:: a_k^{-2} = \operatorname{mean}_{i, j} \Big(\frac{1}{s_y} \frac{\partial f_{ij}}{\partial o_k}\Big)^2

with :math:`s_y` the standard deviation of an outcome over all observations and o a number added to the output
everywhere; of a network that is zero at zero, a number that multiplies it, since nothing can be added. A rate thus gets
the size of a change of the data over the time in which the state forgets it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlme_torch.model.covariates.levels import learn_levels
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.density import Density
from nlme_torch.model.individual.individual import Individual, at_records
from nlme_torch.model.networks.networks import MLP, BoundNetwork
from nlme_torch.model.observation.unchecked import unchecked
from nlme_torch.solve import Solver, choose_solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def scale_networks(model: Model, data: "Dataset", solver: Solver | str | None = None) -> Model:
    """Set the scales of networks made with ``scale="auto"``, in place; ``nlme.fit`` does it by itself.

    A scale that was set before is set anew: the network then is another function of its inputs, with the same weights.

    Args:
        model: The model.
        data: The data set along whose solutions inputs are measured.
        solver: How differential equations are solved; ``Auto()`` if None or "auto".

    Returns:
        The model itself.

    Example:
        >>> import nlme_torch as nlme
        >>> model = nlme.examples.TargetedNetwork()
        >>> data = nlme.examples.indirect_response_data(2, seed=1)
        >>> bool(nlme.scale_networks(model, data).effect.scale < 0.5)
        True
    """
    for network in _networks(model).values():
        network.awaits_scale = network.automatic
    batch = data.batch()
    learn_levels(model, batch)
    set_awaited_scales(Density(model, batch, choose_solver(solver)))
    return model


def set_awaited_scales(density: Density) -> None:
    """Set the scales that are still awaited, in place, once and for all.

    An input that is zero everywhere (a latent effect at eta = 0) or cannot be evaluated keeps the scale one.

    Args:
        density: The model, joined to data and solver.
    """
    awaited = {name: network for name, network in _networks(density.model).items() if network.awaits_scale}
    if not awaited:
        return
    seen = _seen_inputs(density, tuple(awaited))
    for name, network in awaited.items():
        if "scale" not in network.measured:
            continue
        mean, deviation = seen[name].means(), seen[name].deviations()
        if network.centred:
            # what never varies cannot be told from a bias
            network.set_scale(_positive(deviation, mean), mean)
        else:
            network.set_scale(_positive(seen[name].sizes(), mean))
    for network in awaited.values():
        if "output_scale" in network.measured:
            network.set_output_scale(_output_sizes(density, network))
        network.awaits_scale = False


def _output_sizes(density: Density, network: MLP) -> list[float]:
    """By what every output must be multiplied to move the predictions by as much as the data vary."""
    network.set_output_scale((1.0,) * network.n_outputs)
    weights, (n_in, n_out) = network.weights.detach().clone(), network.sizes[-2:]
    found = []
    for output in range(n_out):
        ends = []
        for step in (1e-3, -1e-3):
            moved = weights.clone()
            if network.zero_at_zero:
                row = slice(len(moved) - (n_out - output) * n_in, len(moved) - (n_out - output - 1) * n_in)
                moved[row] *= 1 + step
            else:
                moved[len(moved) - n_out + output] += step
            network.weights.data = moved
            ends.append(_standardised_predictions(density))
        network.weights.data = weights
        slope = (ends[0] - ends[1]) / 2e-3
        size = float(slope[torch.isfinite(slope)].square().mean().sqrt())
        found.append(1 / size if size > 0 else 1.0)
    return found


def _standardised_predictions(density: Density) -> Tensor:
    """Predictions at zero effects over the standard deviation of their outcome, at all observations."""
    batch, conditional = density.batch, density.at()
    with torch.no_grad():
        eta = batch.times.new_zeros(density.model.n_effects, 1, 1, batch.n_subjects)
        distributions, solved = conditional.observe(eta)
    pieces = []
    for name, outcome in batch.outcomes.items():
        mean = torch.where(solved, distributions[name].mean, torch.nan)
        spread = outcome.value[outcome.mask].std()
        pieces.append(mean.expand(len(batch.times), 1, 1, batch.n_subjects)[:, 0, 0][outcome.mask] / spread)
    return torch.cat(pieces)


def _positive(sizes: list[float], means: list[float]) -> list[float]:
    """Ones in place of sizes that are zero but for rounding."""
    return [size if size > 1e-9 * abs(mean) else 1.0 for size, mean in zip(sizes, means, strict=True)]


def automatic_scales(model: Model) -> dict[str, MLP]:
    """The networks with automatic scales, by the names of the buffers that hold them."""
    return {
        f"{name}.{buffer}": module
        for name, module in model.named_modules()
        if isinstance(module, MLP)
        for buffer in module.measured
    }


def _networks(model: Model) -> dict[str, MLP]:
    """The networks with an automatic scale, by attribute name."""
    return {name.split(".")[0]: network for name, network in automatic_scales(model).items()}


def _seen_inputs(density: Density, names: tuple[str, ...]) -> dict[str, "_Watching"]:
    """What some networks are given along the first solution."""
    model, batch, conditional = density.model, density.batch, density.at()
    times, mask = density._times, batch.record_mask[:, None, None]
    with torch.no_grad(), unchecked():
        eta = times.new_zeros(model.n_effects, 1, 1, batch.n_subjects)
        individual = conditional.individual(eta)
        watching = {name: _Watching(getattr(individual, name)) for name in names}
        p = Individual({**vars(individual), **watching})
        model.individual(p, density._covariates)
        if not model.has_dynamics:
            _look(watching, mask)
            model.observe(times, model.predict(times, p, density._covariates), p)
        else:
            states, solved = conditional.predict(individual, eta)
            mask = mask & solved
            model.initial(_at(p, 0))
            for record in range(0 if model.has_compartments else len(times)):
                _look(watching, mask[record])
                y = model.state_tuple()(*(state[record] for state in states))
                model.dynamics(times[record], y, _at(p, record))
            if model.has_compartments:
                model.compartments(p)
            _look(watching, mask)
            model.observe(times, states, p)
    return watching


def _at(p: Individual, record: int) -> Individual:
    """The parameters at one record."""
    return Individual(at_records(vars(p), lambda value: value[record]))


def _look(watching: dict[str, "_Watching"], where: Tensor) -> None:
    """Say which of the subjects and records of the calls to come are real."""
    for network in watching.values():
        network.where = where


class _Watching(BoundNetwork):
    """A network that keeps sums and sums of squares of what it was called with."""

    def __init__(self, bound: BoundNetwork) -> None:
        super().__init__(bound.network, bound.weights)
        self.where: Tensor | None = None
        self._squares = torch.zeros(bound.network.n_inputs, dtype=bound.weights.dtype, device=bound.weights.device)
        self._sums, self._counts = torch.zeros_like(self._squares), torch.zeros_like(self._squares)

    def __call__(self, *inputs: Tensor | float | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        result = super().__call__(*inputs)
        flat = [part for value in inputs for part in (value if isinstance(value, tuple | list) else (value,))]
        for index, part in enumerate(flat):
            value = part if isinstance(part, Tensor) else self.weights.new_tensor(part)
            where = torch.isfinite(value) if self.where is None else torch.isfinite(value) & self.where
            kept = torch.where(where, value, 0.0).expand(where.shape)
            self._squares[index] += kept.square().sum()
            self._sums[index] += kept.sum()
            self._counts[index] += where.sum()
        return result

    def sizes(self) -> list[float]:
        """Root mean square of every input; zero for one that was never seen."""
        return (self._squares / self._counts.clamp_min(1)).sqrt().tolist()

    def means(self) -> list[float]:
        """Mean of every input; zero for one that was never seen."""
        return (self._sums / self._counts.clamp_min(1)).tolist()

    def deviations(self) -> list[float]:
        """Standard deviation of every input; zero for one that never varies."""
        count = self._counts.clamp_min(1)
        return (self._squares / count - (self._sums / count).square()).clamp_min(0.0).sqrt().tolist()
