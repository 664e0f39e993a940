"""A model's dynamics as a pure function of tensors, the form that solvers take."""

from typing import Any

import torch
from torch import Tensor

from nlme_torch.model.declare.model import Model
from nlme_torch.model.individual.individual import stack_states, unflatten
from nlme_torch.model.switches.switched_field import SwitchedVectorField, find_switches


class ModelVectorField:
    """``dy/dt = dynamics(t, y, p)`` with every tensor of ``p`` passed in, none captured.

    A continuous adjoint then differentiates all of them, and a compiled solver can reuse its code for every call.
    Quantities that change from record to record follow the model's states as states of their own, which stand still
    between records unless a rate moves them: so every solver and every gradient sees their current values.

    What ``dynamics`` reads of Python (attributes, globals) is taken to stay as it is while the field lives: a density
    makes new fields for every call of a public function.

    Args:
        model: The model.
        specification: What :func:`nlme_torch.model.individual.individual.flatten` said of ``p``.
    """

    def __init__(self, model: Model, specification: tuple[tuple[str, Any], ...]) -> None:
        self.dynamics, self.states, self.state_tuple = model.dynamics, model.states, model.state_tuple()
        self.specification = specification
        self.kernels: dict[Any, Any] = {}

    def __call__(self, t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Evaluate the derivative.

        Args:
            t: ``(*batch)`` [time].
            y: ``(state, *batch)``, the model's states and then what changes from record to record.
            parameters: The tensors of ``p``, right-aligned with the batch.

        Returns:
            ``(state, *batch)`` [state / time].
        """
        rows = y.unbind(0)
        states, changing = rows[: len(self.states)], rows[len(self.states) :]
        derivative = self.apart(t, states, changing, parameters)
        return torch.cat([derivative, torch.zeros_like(y[len(states) :])]) if changing else derivative

    def apart(
        self, t: Tensor, states: tuple[Tensor, ...], changing: tuple[Tensor, ...], parameters: tuple[Tensor, ...]
    ) -> Tensor:
        """Evaluate the derivative of the model's states, ``(state, *batch)``, from what ``y`` holds, taken apart."""
        p = unflatten(self.specification, parameters, changing)
        return stack_states(self.dynamics(t, self.state_tuple(*states), p), self.states, states[0], "dynamics")


class VectorFields:
    """The vector fields of a model, one for each kind of ``p``, for as long as what ``dynamics`` reads stays the same.

    Args:
        model: The model.

    Attributes:
        branches: Whether Python code of ``dynamics`` was seen to decide by something that depends on the time.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[Any, ModelVectorField] = {}
        self._switched: dict[Any, SwitchedVectorField | None] = {}
        self.branches = False

    def of(self, specification: tuple[tuple[str, Any], ...]) -> ModelVectorField:
        """Return the vector field, the same object for the same specification."""
        if specification not in self._known:
            self._known[specification] = ModelVectorField(self._model, specification)
        return self._known[specification]

    def switched(
        self,
        specification: tuple[tuple[str, Any], ...],
        initial: Tensor,
        parameters: tuple[Tensor, ...],
        interpolated: bool,
    ) -> SwitchedVectorField | None:
        """Return the vector field with its switches in time apart; None for one that has none.

        Args:
            specification: What :func:`nlme_torch.model.individual.individual.flatten` said of ``p``.
            initial: ``(state, chain, start, subject)``, states and then what changes from record to record.
            parameters: The tensors of ``p``, right-aligned with the batch.
            interpolated: Whether what changes moves in straight lines between records.
        """
        key = specification, interpolated
        if key not in self._switched:
            field = self.of(specification)
            found = find_switches(field.apart, len(field.states), initial, parameters, interpolated)
            self.branches = self.branches or (found is not None and found.branches)
            some = found is not None and found.switches
            self._switched[key] = SwitchedVectorField(field.apart, len(field.states), found) if found and some else None
        return self._switched[key]
