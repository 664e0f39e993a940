"""The gradient of a likelihood with respect to the effects, written out in scalars from the records backwards."""

import copy
from dataclasses import dataclass

from nlme_torch.model.compiled.program import DensityProgram
from nlme_torch.solve.kernel.derivatives import adjoints
from nlme_torch.solve.kernel.program import Program, is_number


@dataclass(frozen=True)
class GradientProgram:
    """A likelihood with its transposed derivative.

    Attributes:
        density: The likelihood.
        at_records: Its second part, with the derivatives of the terms.
        of_states: For each term, its derivatives with respect to the states.
        of_held: For each term, its derivatives with respect to some of what is held, by position.
        before: The first part, with inputs ("bar", k) for the cotangents of what is held.
        of_effects: The cotangents of the effects.
    """

    density: DensityProgram
    at_records: Program
    of_states: tuple[tuple[object, ...], ...]
    of_held: tuple[dict[int, object], ...]
    before: Program
    of_effects: tuple[object, ...]


def gradient_program(density: DensityProgram) -> GradientProgram:
    """Differentiate a likelihood.

    Args:
        density: What a column does.

    Raises:
        NoDerivativeError: An operation has no derivative rule.
    """
    trace, parts = density.trace, density.parts
    moving = parts.before.depending(lambda kind, position: kind == "own" and position < trace.effects)
    active = [position for position, operand in enumerate(parts.held) if getattr(operand, "index", None) in moving]
    after = copy.deepcopy(parts.at_records)
    places = after.inputs()
    of_states, of_held = [], []
    for term in density.terms:
        found = adjoints(after, [term], [1.0], careful=True)
        first = trace.records + 1
        of_states.append(tuple(found.get(places.get(("y", first + state), -1), 0.0) for state in range(trace.states)))
        held = {position: found.get(places.get(("own", position), -1), 0.0) for position in active}
        of_held.append({position: operand for position, operand in held.items() if not is_number(operand, 0)})
    before = copy.deepcopy(parts.before)
    bars = [before.input("bar", position) for position in active]
    found = adjoints(before, [parts.held[position] for position in active], bars, careful=True)
    own = before.inputs()
    of_effects = tuple(found.get(own.get(("own", effect), -1), 0.0) for effect in range(trace.effects))
    return GradientProgram(density, after, tuple(of_states), tuple(of_held), before, of_effects)
