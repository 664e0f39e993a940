"""Linear compartment models in closed form: exact, differentiable, and usable alone.

>>> import torch
>>> import nlme_torch as nlme
>>> oral = nlme.compartments.OneCompartment(clearance=2.8, volume=32.0, absorption=1.5)
>>> times = torch.tensor([1.0, 24.0], dtype=torch.float64)
>>> found = nlme.compartments.amounts(oral, times, nlme.Regimen(320.0, compartment="depot"))
>>> [round(value, 2) for value in (found[:, 1] / 32.0).tolist()]  # mg/L in the central compartment
[7.36, 1.3]
"""

from nlme_torch.compartments.dosed import amounts as amounts
from nlme_torch.solve.linear import Linear as Linear
from nlme_torch.solve.linear import LinearSystem as LinearSystem
from nlme_torch.solve.linear import OneCompartment as OneCompartment
from nlme_torch.solve.linear import ThreeCompartment as ThreeCompartment
from nlme_torch.solve.linear import TransitAbsorption as TransitAbsorption
from nlme_torch.solve.linear import TwoCompartment as TwoCompartment
from nlme_torch.solve.linear import solve_linear as solve_linear
from nlme_torch.solve.linear import steady_state as steady_state
from nlme_torch.solve.linear import superposition as superposition
