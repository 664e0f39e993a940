"""The one entry point of the package."""

from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.problem.events import Events
from nlme_torch.solve.problem.problem import Solver, build_problem, check_derivative
from nlme_torch.solve.problem.solution import Solution


def solve(
    vector_field: VectorField,
    initial: Tensor,
    times: Tensor,
    parameters: tuple[Tensor, ...] = (),
    *,
    solver: Solver,
    events: Events | None = None,
    passengers: int = 0,
) -> Solution:
    """Solve one initial-value problem per batch entry, from record to record.

        dy/dt = f(t, y, p) + rate_r   for t in (t_r, t_{r+1}),     y(t_r+) = event_r(y(t_r-))

    Every record is hit exactly. Records of length zero (duplicated times, padding) are legal. A subject whose
    solve fails has a status and NaN states from there on; the others are not affected.

    Args:
        vector_field: ``f(t: (*batch), y: (state, *batch), parameters) -> dy/dt (state, *batch)`` [state /
            time]. Tensors that it captures get no gradient from a continuous adjoint: hand them over in
            ``parameters``. Whatever else it reads may change from call to call.
        initial: (state, *batch) the state before the first record's event.
        times: (record, *batch-broadcastable) non-decreasing record times [time].
        parameters: tensors that broadcast inside the vector field.
        solver: a strategy such as ``Tsit5()``, ``TorchDiffEq()`` or ``RK4(20)``.
        events: amounts, rates and resets at records, or None.
        passengers: number of last states that only ride along, such as a covariate that changes at records; step
            sizes do not depend on them.

    Returns:
        Solution with states (record, state, *batch), status and statistics (*batch).

    Raises:
        SolveError: if a dtype, a shape or the order of the times is wrong (never because a subject failed).

    Example:
        >>> import torch
        >>> from nlme_torch.solve import Tsit5
        >>> times = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
        >>> initial = torch.ones(1, 2, dtype=torch.float64)
        >>> rate = torch.tensor([1.0, 0.5], dtype=torch.float64)
        >>> solution = solve(lambda t, y, p: -p[0] * y, initial, times, (rate,), solver=Tsit5())
        >>> [round(value, 5) for value in solution.states[1, 0].tolist()]
        [0.36788, 0.36788]
    """
    problem = build_problem(vector_field, initial, times, parameters, events, passengers)
    if problem.records == 1 or 0 in problem.batch:
        check_derivative(vector_field(problem.times[0], problem.initial, problem.parameters), problem.initial)
    return solver.integrate(problem)
