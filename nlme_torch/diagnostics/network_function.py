r"""Learned networks in function space: what a network computes, typically and for every subject.

Weights have no meaning one by one (swapping hidden units changes them and nothing else); the function has.

.. math:: g(x) = NN(x, c; w), \qquad g_i(x) = NN(x, c_i; w_i)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch.diagnostics.network_context import Transform, network_context, visited_table
from nlme_torch.diagnostics.network_inputs import Inputs, plan_inputs
from nlme_torch.errors import ModelError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit


@dataclass(frozen=True)
class NetworkFunction:
    """A network as a function of one of its inputs.

    Attributes:
        network: The network's attribute name.
        labels: What each input is, in the order of the network's arguments.
        varied: Label of the input that varies.
        held: One row per slice: where the other inputs are held; NaN where each subject has its own value
            (the typical subject's at eta = 0).
        population: Columns slice, input, output: the function of the typical subject, eta = 0.
        subjects: Columns slice, id, input, output: every subject's function at its conditional mode.
        band: Columns slice, input, lower, median, upper: pointwise quantiles between subjects, over draws
            from all conditional distributions.
        visited: Columns id, time [data's time unit], call, one per input, output, observed (whether the data
            have an observation there): the network's calls along the solutions at the conditional modes.
        level: Share of the subjects inside the band.
    """

    network: str
    labels: tuple[str, ...]
    varied: str
    held: pd.DataFrame
    population: pd.DataFrame
    subjects: pd.DataFrame
    band: pd.DataFrame
    visited: pd.DataFrame
    level: float


def network_function(
    fit: Fit,
    network: str,
    inputs: Inputs | None = None,
    *,
    limits: tuple[float, float] | None = None,
    output: int = 0,
    transform: Transform | None = None,
    points: int = 101,
    level: float = 0.9,
    draws: int = 100,
) -> NetworkFunction:
    """Return a learned network as a function of one input, with its spread between subjects.

    Args:
        fit: A fit.
        network: The network's attribute name.
        inputs: Labels in the order of the network's arguments; or label to what the input does: ``"vary"``, a
            number (held there), several numbers (one slice each), or None (held: at each subject's own value
            if it is constant within subjects, such as a latent or a covariate, otherwise at the mean
            over the observations). By default the first input that changes along the solutions varies.
        limits: Range of the varied input; by default what the solutions at the conditional modes visited.
        output: Which output of the network.
        transform: Applied to the output, e.g. the softplus that the model wraps around the network.
        points: Values of the varied input.
        level: Share of the subjects inside the band.
        draws: Draws per subject for the band.

    Returns:
        The function as tables.

    Raises:
        ModelError: There is no such network, the model never calls it, or the inputs do not fit it.

    Example:
        >>> import nlme_torch as nlme
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=2, smoothing=2))
        >>> model, data = nlme.examples.TheophyllineHybrid(), nlme.examples.theophylline()
        >>> fit = nlme.fit(model, data, short, progress=False)  # doctest: +SKIP
        >>> nlme.diagnostics.network_function(fit, "absorption").labels  # doctest: +SKIP
        ('time / 24', 'depot')
    """
    check_fit("network_function", fit)
    context = network_context(fit, network)
    plan = plan_inputs(context.calls, inputs, 1, [limits])
    x = torch.linspace(*plan.limits[0], points, dtype=context.modes.dtype, device=context.modes.device)
    kept = fit.effects.draws
    picked = torch.linspace(0, kept.shape[1] - 1, min(draws, kept.shape[1]), device=kept.device).round().long()
    cases = {
        "population": (torch.zeros_like(context.modes)[:, None], True),
        "subjects": (context.modes[:, None], False),
        "band": (kept[:, picked], False),
    }
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in cases}
    for name, (eta, typical) in cases.items():
        for position, held in enumerate(plan.held):
            values = context.evaluate(eta, plan, held, [x], output, transform, typical)
            tables[name].append(_tabulate(name, values, x, context.subjects, level).assign(slice=position))
    frames = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    others = [index for index in range(len(plan.labels)) if index not in plan.varied]
    held_table = pd.DataFrame(
        {plan.labels[index]: [np.nan if row[index] is None else row[index] for row in plan.held] for index in others},
        index=pd.RangeIndex(len(plan.held), name="slice"),
    )
    visited = visited_table(context.calls, context.subjects, plan.labels, output, transform)
    return NetworkFunction(
        network, plan.labels, plan.labels[plan.varied[0]], held_table, **frames, visited=visited, level=level
    )


def network_surface(
    fit: Fit,
    network: str,
    inputs: Inputs | None = None,
    *,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    output: int = 0,
    transform: Transform | None = None,
    points: int = 61,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a learned network as a function of two inputs.

    Args:
        fit: A fit.
        network: The network's attribute name.
        inputs: As in :func:`network_function`, with two inputs that vary.
        limits: Range of each of the two.
        output: Which output of the network.
        transform: Applied to the output.
        points: Values of each varied input.

    Returns:
        A table with one row per pair of values: columns of the two labels, population (eta = 0), mean and sd
        (over the subjects, at the conditional modes); and the calls along the solutions as in
        :class:`NetworkFunction`.

    Raises:
        ModelError: As in :func:`network_function`.
    """
    check_fit("network_surface", fit)
    context = network_context(fit, network)
    plan = plan_inputs(context.calls, inputs, 2, limits)
    if len(plan.held) > 1:
        raise ModelError("a surface has no slices: hold every other input at one number.")
    axes = [
        torch.linspace(*ends, points, dtype=context.modes.dtype, device=context.modes.device) for ends in plan.limits
    ]
    grid = [axis.reshape(-1) for axis in torch.meshgrid(*axes, indexing="ij")]
    zero = torch.zeros_like(context.modes)[:, None]
    typical = context.evaluate(zero, plan, plan.held[0], grid, output, transform, True)[:, 0, 0]
    modes = context.evaluate(context.modes[:, None], plan, plan.held[0], grid, output, transform, False)[:, 0]
    columns = {plan.labels[index]: axis for index, axis in zip(plan.varied, grid, strict=True)}
    columns |= {"population": typical, "mean": modes.mean(-1), "sd": modes.std(-1)}
    table = pd.DataFrame({name: values.numpy(force=True) for name, values in columns.items()})
    return table, visited_table(context.calls, context.subjects, plan.labels, output, transform)


def network_trajectories(
    fit: Fit,
    network: str,
    inputs: Inputs | None = None,
    *,
    output: int = 0,
    transform: Transform | None = None,
) -> pd.DataFrame:
    """Return what a learned network computed over time, along the solution of every subject.

    Args:
        fit: A fit.
        network: The network's attribute name.
        inputs: Labels of the inputs in the order of the network's arguments.
        output: Which output of the network.
        transform: Applied to the output.

    Returns:
        Columns id, time [data's time unit], call, one per input, output (at the conditional mode), typical
        (the output along the solution at eta = 0) and observed (whether the data have an observation there).

    Raises:
        ModelError: There is no such network, or the model never calls it.
    """
    check_fit("network_trajectories", fit)
    context = network_context(fit, network)
    labels = plan_inputs(context.calls, inputs, 1, []).labels
    return visited_table(context.calls, context.subjects, labels, output, transform, context.typical)


def _tabulate(case: str, values: Tensor, x: Tensor, subjects: tuple[Any, ...], level: float) -> pd.DataFrame:
    """Put ``(point, chain, subject)`` into the columns of one of the three tables."""
    points = x.numpy(force=True)
    if case == "population":
        return pd.DataFrame({"input": points, "output": values[:, 0, 0].numpy(force=True)})
    if case == "subjects":
        flat = values[:, 0].mT.reshape(-1).numpy(force=True)
        ids = [label for label in subjects for _ in points]
        return pd.DataFrame({"id": ids, "input": np.tile(points, len(subjects)), "output": flat})
    tail = 0.5 * (1 - level)
    flat = values.reshape(len(points), -1).numpy(force=True)
    lower, median, upper = np.quantile(flat, [tail, 0.5, 1 - tail], axis=1)
    return pd.DataFrame({"input": points, "lower": lower, "median": median, "upper": upper})
