"""What a model is told whose equations switch at times of their own."""

from typing import TYPE_CHECKING

import torch

from nlme_torch.model.system import DifferentialSystem
from nlme_torch.solve.kernel.field import field_program
from nlme_torch.solve.kernel.layout import layouts
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.switches import jumps_in_time

if TYPE_CHECKING:
    from nlme_torch.model.density import Density

SWITCHES = (
    "dynamics compares the time with something other than a state, so that it jumps between records: a solver may step "
    "over a short pulse at any tolerance, and the gradient to a switch time is 0; give what is switched as doses "
    "(rates, durations and lags) or as a covariate that changes at records"
)


def switch_warnings(density: "Density") -> tuple[str, ...]:
    """Return a warning if the equations jump in time at what is no record; none where that cannot be seen.

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
    initial = trajectory.initial
    layout = layouts(initial.shape[0], initial.shape[1:], system.parameters)[0]
    try:
        field = field_program(system.field, layout, system.passengers)
    except NotScalarError:
        return ()
    return (SWITCHES,) if jumps_in_time(field) else ()
