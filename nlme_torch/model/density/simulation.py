"""Simulation of observations from a model."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.data import with_outcomes
from nlme_torch.errors import ModelError
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.drawn import draw_outcomes, expected
from nlme_torch.model.density.simulated_events import draw_event, looked_at
from nlme_torch.model.density.time_switches import switch_warnings
from nlme_torch.solve import Solver, choose_solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

_log = logging.getLogger(__name__)


def simulate(
    model: Model,
    data: "Dataset",
    *,
    seed: int,
    eta: Float[Tensor, "effect subject"] | None = None,
    solver: Solver | str | None = None,
    residual: bool = True,
) -> "Dataset":
    r"""Draw random effects and observations of every subject.

    .. math:: \eta_i \sim N(0, \Omega), \qquad y_{ij} \sim p(y \mid f(t_{ij}; \eta_i), \sigma)

    A subject has one event at most, and its rows of that outcome end there: a ``TimeToEvent`` puts a row at its time,
    or leaves 0 in the last row where none happens until then; an ``IntervalCensoredEvent`` has 1 in the first row after
    it.

    Args:
        model: The model; its own parameters are the truth.
        data: Who gets which doses and when to look: a design of ``Dataset.from_regimen`` or ``with_regimen``, or data
            whose observations are to be replaced.
        seed: Seed of all draws.
        eta: Random effects to use in place of draws, ``(effect, subject)``.
        solver: How differential equations are solved; ``Auto()`` if None or "auto".
        residual: Whether observations have residual error; without it they are their expectations given the effects.

    Returns:
        A data set with one column for every outcome.

    Raises:
        ModelError: The equations of a subject cannot be solved, an outcome cannot be drawn, or events are several.

    Example:
        >>> import nlme_torch as nlme
        >>> data = nlme.simulate(nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline(), seed=1)
        >>> data
        Dataset of 12 subjects, 132 rows
          observations  conc 132
          covariates    Wt, Dose
    """
    check_arguments("simulate", model, data, seed, fits=False)
    density = Density(model, data.batch(), choose_solver(solver))
    batch = density.batch
    for warning in switch_warnings(density):
        _log.warning(warning)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        conditional = density.at()
        if eta is not None and eta.shape != (model.n_effects, batch.n_subjects):
            raise ModelError(
                f"simulate: eta has the shape {tuple(eta.shape)}, and the model has {model.n_effects} effects of "
                f"{batch.n_subjects} subjects: give {(model.n_effects, batch.n_subjects)}."
            )
        effects = conditional.sample(1, generator) if eta is None else eta[:, None, None]
        observed, solved = conditional.observe(effects)
        failed = (~solved.expand(1, 1, batch.n_subjects)).nonzero()
        if len(failed):
            raise ModelError(
                f"the equations of subject {batch.subjects[int(failed[0, -1])]!r} cannot be solved with the effects "
                f"drawn ({len(failed)} of {batch.n_subjects} subjects in all); check parameters and Omega."
            )
        # distributions draw from torch's global generator, which is put back afterwards
        torch.set_rng_state(generator.get_state())
        values = {}
        inserted = np.zeros(data.n_rows, dtype=bool)
        event = draw_event(density, data, effects, observed)
        if event is not None:
            data, inserted, values[event.name] = event.data, event.inserted, event.column
            density = event.density or density
            batch, (observed, _) = density.batch, density.at().observe(effects)
        shape = (batch.n_records, 1, 1, batch.n_subjects)
        others = [name for name in batch.outcomes if name not in values]
        if residual:
            found = draw_outcomes(batch, observed, others, shape)
        else:
            found = {name: expected(name, observed[name], shape) for name in others}
        for name in others:
            value = found[name][:, 0, 0]
            wanted = looked_at(batch, name, data.prediction_rows & ~inserted)
            column = np.full(data.n_rows, np.nan)
            column[batch.rows[wanted].numpy()] = value[wanted].numpy()
            values[name] = column
        values = {name: values[name] for name in batch.outcomes}
    return with_outcomes(data, values)
