"""The axes of every tensor in the library, named once.

``subject``   one individual of a data set, always the **last** axis of a batch.
``chain``     replicates of a subject: MCMC chains, quadrature nodes, importance samples, starts.
``record``    one row of a subject's table in time order, padded; the leading axis of anything in time.
``state``     one component of the differential equation.
``effect``    one random effect.
``weight``    one network weight.
``output``    one observed outcome.

``start``     alternative values of the population parameters, evaluated at once (multistart, bootstrap).

A batch is ``*batch`` = ``(chain, start, subject)``, or any leading axes with the subject last: tensors are
structures of arrays, component first and batch last (``(state, chain, start, subject)``), so that one component of
all subjects is contiguous, and ``(start, subject)`` is one axis to whatever treats starts as further subjects.
"""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

BatchTensor: TypeAlias = Float[Tensor, "*batch"]
StateTensor: TypeAlias = Float[Tensor, "state *batch"]
EffectTensor: TypeAlias = Float[Tensor, "effect *batch"]
RecordTensor: TypeAlias = Float[Tensor, "record *batch"]

VectorField: TypeAlias = Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor]
"""``(t: (*batch), y: (state, *batch), parameters) -> dy/dt: (state, *batch)``, free of captured tensors."""

LogDensity: TypeAlias = Callable[[Tensor], Tensor]
"""``(effects: (effect, *batch)) -> log density: (*batch)``, one value for each replicate of each subject."""

__all__ = [
    "BatchTensor",
    "Bool",
    "EffectTensor",
    "Float",
    "Int",
    "LogDensity",
    "RecordTensor",
    "StateTensor",
    "VectorField",
]
