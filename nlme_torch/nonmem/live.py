"""Which definitions are needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nlme_torch.nonmem.expressions import Element, Expression, Name, walk
from nlme_torch.nonmem.flow import Definition, Program


@dataclass
class Declarations:
    """What ``__init__`` declares, and what stands for THETA, ETA and EPS in the methods.

    Attributes:
        lines: Statements of ``__init__``.
        texts: Element to what stands for it, without ``p.``.
        occasion: Column of occasions, None for none.
        notes: What a reader should know.
    """

    lines: list[str] = field(default_factory=list)
    texts: dict[Element, str] = field(default_factory=dict)
    occasion: str | None = None
    notes: list[str] = field(default_factory=list)


def live_definitions(program: Program, roots: Sequence[Expression]) -> list[Definition]:
    """Return the definitions that some expressions need, in the order of the code."""
    needed: set[Name] = set()

    def need(expression: Expression) -> None:
        for part in walk(expression):
            if isinstance(part, Name) and part in program.definitions and part not in needed:
                needed.add(part)
                need(program.definitions[part].value)

    for root in roots:
        need(root)
    return [definition for name, definition in program.definitions.items() if name in needed]
