"""Stiff and biological systems: (field, initial (state,), times (record,), parameters (parameter,))."""

import torch
from support.solve_cases import DTYPE


def _tensor(*values):
    return torch.tensor(values, dtype=DTYPE)


def robertson(t, y, parameters):
    """Robertson (1966): chemical kinetics with rates over nine orders of magnitude."""
    a, b, c = parameters[0]
    first, second, third = a * y[0], b * y[1] * y[1], c * y[1] * y[2]
    return torch.stack([third - first, first - third - second, second])


def van_der_pol(t, y, parameters):
    (mu,) = parameters[0]
    return torch.stack([y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]])


def viral(t, y, parameters):
    """Target-cell-limited viral dynamics: target cells, infected cells, virus."""
    beta, delta, p, c = parameters[0]
    infection = beta * y[0] * y[2]
    return torch.stack([-infection, infection - delta * y[1], p * y[1] - c * y[2]])


def michaelis_menten(t, y, parameters):
    ka, vmax, km = parameters[0]
    return torch.stack([-ka * y[0], ka * y[0] - vmax * y[1] / (km + y[1])])


def target_mediated(t, y, parameters):
    """Target-mediated drug disposition: free drug, peripheral drug, free target, complex."""
    cl, k12, k21, on, off, synthesis, degradation, internalisation = parameters[0]
    binding = on * y[0] * y[2] - off * y[3]
    return torch.stack(
        [
            -cl * y[0] - k12 * y[0] + k21 * y[1] - binding,
            k12 * y[0] - k21 * y[1],
            synthesis - degradation * y[2] - binding,
            binding - internalisation * y[3],
        ]
    )


def friberg(t, y, parameters):
    """Myelosuppression (Friberg 2002): proliferating, three transit and circulating cells, drug."""
    base, mean_transit, gamma, slope, elimination = parameters[0]
    k = 4 / mean_transit
    feedback = (base / y[4]) ** gamma
    return torch.stack(
        [
            k * y[0] * ((1 - slope * y[5]) * feedback - 1),
            k * (y[0] - y[1]),
            k * (y[1] - y[2]),
            k * (y[2] - y[3]),
            k * (y[3] - y[4]),
            -elimination * y[5],
        ]
    )


CASES = {
    "robertson": (
        robertson, _tensor(1.0, 0.0, 0.0), _tensor(0.0, 0.4, 4.0, 4e2, 4e4, 4e6), _tensor(0.04, 3e7, 1e4)
    ),
    "van der pol": (van_der_pol, _tensor(2.0, 0.0), _tensor(0.0, 1.0, 400.0, 800.0, 1200.0), _tensor(1000.0)),
    "viral": (
        viral, _tensor(4e8, 0.0, 0.1), torch.linspace(0, 14, 8, dtype=DTYPE), _tensor(5e-9, 1.5, 25.0, 300.0)
    ),
    "michaelis-menten": (
        michaelis_menten, _tensor(100.0, 0.0), torch.linspace(0, 48, 9, dtype=DTYPE), _tensor(1.2, 6.0, 0.5)
    ),
    "target-mediated": (
        target_mediated, _tensor(100.0, 0.0, 10.0, 0.0), torch.linspace(0, 30, 7, dtype=DTYPE),
        _tensor(0.1, 0.3, 0.2, 90.0, 1.0, 5.0, 0.5, 0.3),
    ),
    "friberg": (
        friberg, _tensor(5.0, 5.0, 5.0, 5.0, 5.0, 20.0), torch.linspace(0, 600, 7, dtype=DTYPE),
        _tensor(5.0, 90.0, 0.17, 0.2, 0.05),
    ),
}  # fmt: skip


def problem(name, subjects=1, spread=0.0, seed=0):
    """A batch of subjects whose parameters vary log-normally around the case's."""
    field, initial, times, parameters = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    factors = torch.exp(spread * torch.randn(len(parameters), subjects, generator=generator, dtype=DTYPE))
    return field, initial[:, None].expand(-1, subjects), times[:, None], (parameters[:, None] * factors,)
