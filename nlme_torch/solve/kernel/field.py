"""A vector field as a program, and the programs of its derivatives."""

import copy
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.kernel.derivatives import adjoints, tangents
from nlme_torch.solve.kernel.layout import Layout
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.scalarise import scalarise


@dataclass(frozen=True)
class FieldProgram:
    """dy/dt of one subject, in scalars.

    Attributes:
        program: the instructions; inputs are "t", "y" (state), "own" and "shared" (parameter).
        outputs: one operand per state.
        own: number of parameters that each subject has its own values of.
        shared: number of parameters that are the same for all.
        passengers: number of last states that step sizes ignore.
        held: parameters ("own" or "shared", position) that derivatives take for constants.
        careful: whether derivatives multiply with an absolute zero: 0 times infinity or NaN is 0. It is slower, and
            needed where a value is finite and its derivative is not, as of ``c ** g`` where c stays 0.
    """

    program: Program
    outputs: tuple[object, ...]
    own: int
    shared: int
    passengers: int = 0
    held: frozenset[tuple[str, int]] = frozenset()
    careful: bool = False

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.outputs)

    def transposed(self) -> tuple[Program, dict[tuple[str, int], object]]:
        """The cotangents of all inputs, for cotangents ("bar", i) of the slopes.

        Returns:
            A program, and for each input (kind, index) that the slopes depend on its operand.
        """
        program = copy.deepcopy(self.program)
        bars = [program.input("bar", index) for index in range(self.states)]
        found = adjoints(program, self.outputs, bars, self.careful)
        return program, self._of_inputs(program, found)

    def jacobian(self) -> tuple[Program, list[object], list[object]]:
        """The derivatives of the slopes with respect to states and time.

        Returns:
            A program, the operands f_y row by row, and the operands f_t.
        """
        program = copy.deepcopy(self.program)
        inputs = program.inputs()
        columns = []
        for place in (*(("y", index) for index in range(self.states)), ("t", 0)):
            seeds: dict[int, object] = {inputs[place]: 1.0} if place in inputs else {}
            columns.append(tangents(program, seeds, self.outputs, len(self.program.instructions), self.careful))
        rows = [columns[column][row] for row in range(self.states) for column in range(self.states)]
        return program, rows, columns[-1]

    def jacobian_transposed(self) -> tuple[Program, dict[tuple[str, int], object]]:
        """The cotangents of all inputs, for cotangents ("jacobian", i) and ("slant", i) of f_y and f_t.

        Returns:
            A program, and for each input that the derivatives depend on its operand.
        """
        program, rows, slants = self.jacobian()
        bars = [program.input("jacobian", index) for index in range(len(rows))]
        bars += [program.input("slant", index) for index in range(len(slants))]
        found = adjoints(program, [*rows, *slants], bars, self.careful)
        return program, self._of_inputs(program, found)

    def tangent(self) -> "FieldProgram":
        """The field of states and their tangents, parameters and theirs.

        d/dt (y, y') = (f(t, y, p), f_y y' + f_p p')
        """
        program = copy.deepcopy(self.program)
        offsets = {"y": self.states, "own": self.own, "shared": self.shared}
        seeds: dict[int, object] = {
            index: program.input(kind, place + offsets[kind])
            for (kind, place), index in program.inputs().items()
            if kind in offsets and (kind, place) not in self.held
        }
        speeds = tangents(program, seeds, self.outputs, careful=self.careful)
        outputs = (*self.outputs, *speeds)
        return FieldProgram(program, outputs, 2 * self.own, 2 * self.shared, held=self.held, careful=self.careful)

    def _of_inputs(self, program: Program, found: dict[int, object]) -> dict[tuple[str, int], object]:
        """The cotangents of the inputs that are not held, among those of all instructions."""
        return {
            place: found[index]
            for place, index in program.inputs().items()
            if index in found and place not in self.held
        }


def field_program(field: VectorField, layout: Layout, passengers: int = 0) -> FieldProgram:
    """Write a vector field out in scalars.

    Args:
        field: the vector field.
        layout: shapes of states and parameters.
        passengers: number of last states that only ride along.

    Returns:
        Its program.

    Raises:
        NotScalarError: if it cannot be written out.
    """
    program = Program()
    ones = (1,) * layout.axes
    counts = {"own": 0, "shared": 0}
    arrays = [_array(program, "t", ones), _array(program, "y", (layout.states, *ones))]
    for shape, mine in zip(layout.shapes, layout.own, strict=True):
        kind = "own" if mine else "shared"
        arrays.append(_array(program, kind, (*shape, *ones) if mine else shape, counts[kind]))
        counts[kind] += math.prod(shape)

    def call(t: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        return field(t, y, parameters)

    (slope,) = scalarise(call, arrays, program)
    if slope.size != layout.states:
        raise NotScalarError("its parameters do not align with the batch")
    return FieldProgram(program, tuple(slope.reshape(layout.states)), counts["own"], counts["shared"], passengers)


def _array(program: Program, kind: str, shape: tuple[int, ...], start: int = 0) -> np.ndarray:
    array = np.empty(shape, dtype=object)
    for offset, index in enumerate(np.ndindex(*shape)):
        array[index] = program.input(kind, 0 if kind == "t" else start + offset)
    return array


__all__ = ["FieldProgram", "Ref", "field_program"]
