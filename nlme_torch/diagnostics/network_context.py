"""A fit's network, ready to be evaluated anywhere, with all calls that the model made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.diagnostics.fit_curves import time_grids
from nlme_torch.diagnostics.network_calls import NetworkCalls, check_network, network_calls
from nlme_torch.diagnostics.network_inputs import InputPlan, own_values
from nlme_torch.inference import Fit
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.networks.networks import BoundNetwork

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NetworkContext:
    """A fit's network with its calls along all solutions, at the conditional modes and at eta = 0."""

    network: str
    conditional: Conditional
    modes: Tensor
    calls: NetworkCalls
    typical: NetworkCalls

    @property
    def subjects(self) -> tuple[Any, ...]:
        """Ids of the subjects."""
        return self.conditional.density.batch.subjects

    def evaluate(
        self,
        eta: Tensor,
        plan: InputPlan,
        held: tuple[float | None, ...],
        grid: list[Tensor],
        output: int,
        transform: Transform | None,
        typical: bool,
    ) -> Tensor:
        """Evaluate the network, ``(point, chain, subject)``; a single subject where typical.

        Args:
            eta: Random effects, ``(effect, chain, subject)``.
            plan: What every input does.
            held: The slice.
            grid: Values of the varied inputs, each ``(point,)``.
            output: Which output.
            transform: Applied to the output.
            typical: Use the median subject's own values of subject-level inputs.
        """
        with torch.no_grad():
            bound: BoundNetwork = getattr(self.conditional.individual(eta[:, :, None]), self.network)
            weights = bound.weights[..., :1] if typical else bound.weights
            own: NetworkCalls | None = None
            arguments = []
            for index, value in enumerate(held):
                if index in plan.varied:
                    arguments.append(grid[plan.varied.index(index)].reshape(-1, 1, 1, 1))
                elif value is not None:
                    arguments.append(eta.new_full((1, 1, 1, 1), value))
                elif typical:
                    arguments.append(own_values(self.typical, index)[:, None].median(-1, keepdim=True).values)
                else:
                    if own is None:
                        own = network_calls(self.conditional, self.network, eta, along=self.modes)
                    arguments.append(own_values(own, index)[:, None])
            result = BoundNetwork(bound.network, weights)(*arguments)
            chosen = result[output] if isinstance(result, tuple) else result
            chosen = chosen if transform is None else transform(chosen)
            subjects = 1 if typical else eta.shape[-1]
            return chosen.expand(len(grid[0]), eta.shape[1], 1, subjects)[:, :, 0]


def network_context(fit: Fit, network: str, times: int = 60) -> NetworkContext:
    """Solve the model on a grid of times and record what the network was asked.

    Args:
        fit: A fit.
        network: The network's attribute name.
        times: Equally spaced times per subject.
    """
    check_network(fit.model, network)
    modes = fit.effects.modes
    extended = fit.data.with_times(time_grids(fit.data.batch(), times))
    conditional = Density(fit.model, extended.batch(device=modes.device), fit.solver).at()
    calls, typical = (network_calls(conditional, network, eta[:, None]) for eta in (modes, torch.zeros_like(modes)))
    return NetworkContext(network, conditional, modes, calls, typical)


def visited_table(
    calls: NetworkCalls,
    subjects: tuple[Any, ...],
    labels: tuple[str, ...],
    output: int,
    transform: Transform | None,
    typical: NetworkCalls | None = None,
) -> pd.DataFrame:
    """Return the calls of a network as a table.

    Args:
        calls: The calls.
        subjects: Ids of the subjects.
        labels: One per input.
        output: Which output.
        transform: Applied to the output.
        typical: The same calls at eta = 0, for a further column ``typical`` of outputs.

    Returns:
        Columns id, time, call, one per input, output (and typical) and observed (whether the data have an
        observation there), ordered by call, subject and time.
    """
    tables = []
    for call in range(calls.inputs.shape[1]):
        subject, record = torch.nonzero(calls.solved.mT, as_tuple=True)
        columns: dict[str, Any] = {
            "id": [subjects[index] for index in subject.tolist()],
            "time": calls.times[record, subject].numpy(force=True),
            "call": call,
        }
        for label, values in zip(labels, calls.inputs, strict=True):
            columns[label] = values[call, record, 0, subject].numpy(force=True)
        for column, source in (("output", calls), ("typical", typical)):
            if source is not None:
                outputs = source.outputs[output] if transform is None else transform(source.outputs[output])
                columns[column] = outputs[call, record, 0, subject].numpy(force=True)
        columns["observed"] = calls.observed[record, subject].numpy(force=True)
        table = pd.DataFrame(columns)
        # a grid time that is also a record's stands after it and says nothing new
        again = table.drop(columns="observed").duplicated()
        tables.append(table[~again])
    return pd.concat(tables, ignore_index=True)
