"""Linear compartment models in closed form: exact transitions between records, for any dosing history."""

from .mammillary import OneCompartment as OneCompartment
from .mammillary import ThreeCompartment as ThreeCompartment
from .mammillary import TwoCompartment as TwoCompartment
from .solve import solve_linear as solve_linear
from .steady_state import steady_state as steady_state
from .superposition import superposition as superposition
from .system import Linear as Linear
from .system import LinearSystem as LinearSystem
from .transit import TransitAbsorption as TransitAbsorption
