"""Linear compartment systems with random parameters, and answers that know nothing of the library."""

import mpmath
import numpy as np
import torch

from nlme_torch.compartments import OneCompartment, ThreeCompartment, TransitAbsorption, TwoCompartment

DTYPE = torch.float64


def number(*values):
    return torch.tensor(values, dtype=DTYPE)


def transit(count):
    return lambda rate, clearance, volume: TransitAbsorption(rate, count, clearance, volume)


# name: (constructor of tensors, number of them)
SYSTEMS = {
    "one": (OneCompartment, 2),
    "one_oral": (OneCompartment, 3),
    "two": (TwoCompartment, 4),
    "two_oral": (TwoCompartment, 5),
    "three": (ThreeCompartment, 6),
    "three_oral": (ThreeCompartment, 7),
    "transit_0": (transit(0), 3),
    "transit_1": (transit(1), 3),
    "transit_4": (transit(4), 3),
}


def textbook_matrix(name, values):
    """A written out from the parameters, as the books do."""
    values = [float(value) for value in values]
    if name.startswith("transit"):
        rate, clearance, volume = values
        count = int(name[-1]) + 2
        matrix = np.zeros((count, count))
        for index in range(count - 1):
            matrix[index, index], matrix[index + 1, index] = -rate, rate
        matrix[-1, -1] = -clearance / volume
        return matrix
    absorbed = name.endswith("oral")
    ka = values.pop() if absorbed else None
    clearance, volume, *pairs = values
    periphery = [(flow / volume, flow / other) for flow, other in zip(pairs[::2], pairs[1::2], strict=True)]
    count = 1 + len(periphery)
    matrix = np.zeros((count, count))
    matrix[0, 0] = -clearance / volume - sum(out for out, _ in periphery)
    for index, (out, back) in enumerate(periphery, start=1):
        matrix[index, 0], matrix[0, index], matrix[index, index] = out, back, -back
    if absorbed:
        larger = np.zeros((count + 1, count + 1))
        larger[1:, 1:], larger[0, 0], larger[1, 0] = matrix, -ka, ka
        return larger
    return matrix


def exact_transition(matrix, elapsed):
    """exp(A t) with 30 digits: SciPy's loses half of them where a triangular matrix has nearly equal rates."""
    with mpmath.workdps(30):
        argument = mpmath.matrix(matrix.tolist()) * mpmath.mpf(elapsed)
        return np.array(mpmath.expm(argument).tolist(), dtype=float)


def exact_response(matrix, elapsed):
    """The integral of exp(A s) over (0, t), from the exponential of the system with its inputs as states."""
    count = len(matrix)
    block = np.block([[matrix, np.eye(count)], [np.zeros((count, 2 * count))]])
    return exact_transition(block, elapsed)[:count, count:]


def random_values(name, batch, seed=0):
    """Log-normal parameters, one tensor for each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.exp(torch.randn(batch, generator=generator, dtype=DTYPE)) for _ in range(SYSTEMS[name][1])]


def random_records(records, batch, end=24.0, seed=0):
    """Sorted times with a duplicate."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(records, *batch, generator=generator, dtype=DTYPE).sort(0).values * end
    times[2] = times[1]
    return times
