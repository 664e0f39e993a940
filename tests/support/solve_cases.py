"""Problems with independent answers, shared by the tests of the solvers."""

import numpy as np
import torch
from scipy.integrate import solve_ivp

DTYPE = torch.float64


def oral(t, y, parameters):
    """One compartment with first-order absorption; parameters (3, *batch): ka, cl, v."""
    ka, cl, v = parameters[0]
    return torch.stack([-ka * y[0], ka * y[0] - cl / v * y[1]])


def oral_parameters(subjects, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.tensor([0.5, 0.05, 0.5], dtype=DTYPE)
    high = torch.tensor([1.5, 0.15, 1.5], dtype=DTYPE)
    uniform = torch.rand(3, subjects, generator=generator, dtype=DTYPE)
    return low[:, None] + (high - low)[:, None] * uniform


def oral_exact(parameters, times, dose=4.0):
    """Amount in the central compartment, (record, subject)."""
    ka, cl, v = parameters
    ke = cl / v
    return dose * ka / (ka - ke) * (torch.exp(-ke * times) - torch.exp(-ka * times))


def random_times(records, subjects, end=24.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(records - 1, subjects, generator=generator, dtype=DTYPE).sort(0).values * end
    return torch.cat([torch.zeros(1, subjects, dtype=DTYPE), times])


def oral_problem(subjects=7, records=9, seed=0):
    parameters = oral_parameters(subjects, seed)
    initial = torch.zeros(2, subjects, dtype=DTYPE)
    initial[0] = 4.0
    return oral, initial, random_times(records, subjects, seed=seed + 1), (parameters,)


def saturable(t, y, parameters):
    """Nonlinear, driven in time, parameters of mixed shapes: per subject (2, subject) and shared (2,)."""
    own, shared = parameters
    uptake = torch.tanh(shared[0] * y[0] + own[0])
    loss = own[1] * y[1] / (shared[1] + y[1])
    return torch.stack([-uptake, uptake * (1 + 0.1 * torch.sin(t)) - loss])


def saturable_problem(subjects=3, records=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    own = 0.3 + torch.rand(2, subjects, generator=generator, dtype=DTYPE)
    shared = torch.tensor([0.4, 2.0], dtype=DTYPE)
    initial = torch.stack([torch.full((subjects,), 3.0, dtype=DTYPE), torch.full((subjects,), 0.5, dtype=DTYPE)])
    return saturable, initial, random_times(records, subjects, 6.0, seed + 1), (own, shared)


def reference(field, initial, times, parameters, subject=0, method="Radau", rtol=1e-10, atol=1e-12):
    """SciPy's solution of one subject of a batch whose parameters are all (..., subject)."""
    own = tuple(p[..., subject : subject + 1] if p.shape[-1] == initial.shape[-1] else p for p in parameters)

    def slope(t, y):
        state = torch.from_numpy(np.asarray(y)).reshape(-1, 1)
        return field(torch.full((1,), float(t), dtype=DTYPE), state, own).reshape(-1).numpy()

    grid = times[:, subject].numpy()
    answer = solve_ivp(slope, (grid[0], grid[-1]), initial[:, subject].numpy(), method, grid, rtol=rtol, atol=atol)
    assert answer.success, answer.message
    return torch.from_numpy(answer.y.T.copy())


def central_difference(function, values, step=1e-5):
    """Gradient of a scalar function of one tensor by fourth-order central differences."""
    gradient = torch.zeros_like(values)
    for index in range(values.numel()):
        total = 0.0
        for shift, weight in ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0)):
            moved = values.clone()
            size = step * max(1.0, abs(float(values.flatten()[index])))
            moved.view(-1)[index] += shift * size
            total += weight * float(function(moved)) / (12 * size)
        gradient.view(-1)[index] = total
    return gradient
