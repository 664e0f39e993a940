"""Linear compartment models in closed form: exact transitions between records, for any dosing history."""

from nlme_torch.solve.linear.mammillary import OneCompartment as OneCompartment
from nlme_torch.solve.linear.mammillary import ThreeCompartment as ThreeCompartment
from nlme_torch.solve.linear.mammillary import TwoCompartment as TwoCompartment
from nlme_torch.solve.linear.solve import solve_linear as solve_linear
from nlme_torch.solve.linear.steady_state import steady_state as steady_state
from nlme_torch.solve.linear.superposition import superposition as superposition
from nlme_torch.solve.linear.system import Linear as Linear
from nlme_torch.solve.linear.system import LinearSystem as LinearSystem
from nlme_torch.solve.linear.transit import TransitAbsorption as TransitAbsorption
