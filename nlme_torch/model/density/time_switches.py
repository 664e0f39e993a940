"""What a model is told whose equations switch at times of their own."""

from typing import TYPE_CHECKING

import torch

from nlme_torch.model.trajectory.system import DifferentialSystem
from nlme_torch.solve.kernel.field import field_program
from nlme_torch.solve.kernel.layout import layouts
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.switches import jumps_in_time

if TYPE_CHECKING:
    from nlme_torch.model.density.density import Density

SWITCHES = (
    "dynamics jumps in time in a way that cannot be followed, between records: a solver may step over a short pulse at "
    "any tolerance, and the gradient to a switch time is 0; compare the time, or what is a straight line in it, with "
    "something that no state enters, by torch.where or as a factor (t < p.tsw), or give what is switched as doses "
    "(rates, durations and lags) or as a covariate that changes at records"
)
REPEATED = (
    "a steady-state dose takes the interval before it as repeated for ever, and dynamics switches at times of its own: "
    "the steady state is right only if it switches in the same way in every interval of the doses"
)


def switch_warnings(density: "Density") -> tuple[str, ...]:
    """Return warnings if the equations jump in time where no stop of the solver is, or switch before a steady state.

    Args:
        density: The model joined to its data.
    """
    if not density.model.has_dynamics or density.model.has_compartments:
        return ()
    with torch.no_grad():
        conditional = density.at()
        eta = conditional.mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
        trajectory = conditional.trajectory(conditional.individual(eta), eta)
    system = trajectory.system
    assert isinstance(system, DifferentialSystem)
    found: tuple[str, ...] = ()
    if system.switched is not None and density._plan is not None and density._plan.steady:
        found = (REPEATED,)
    posed, held = (system.field, 0) if system.switched is None else (system.switched, len(system.switched.switches))
    initial = trajectory.initial
    layout = layouts(initial.shape[0] + held, initial.shape[1:], system.parameters)[0]
    try:
        field = field_program(posed, layout, system.passengers + held)
    except NotScalarError:
        return (*found, SWITCHES) if density.fields.branches else found
    return (*found, SWITCHES) if jumps_in_time(field) else found
