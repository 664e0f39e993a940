"""Which operation of a model has no finite derivative, at which record."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlme_torch.model.density.absolute_zeros import AbsoluteZeros, gradients

if TYPE_CHECKING:
    from nlme_torch.model.density.density import Conditional


def infinite_derivative(conditional: "Conditional", eta: Tensor, start: int, subject: int) -> str | None:
    """Name the operation at which the derivatives of one subject's log joint density stop being finite.

    Args:
        conditional: Densities at the parameters in question.
        eta: ``(effect, 1, start, subject)``.
        start: Which start.
        subject: Position of the subject.

    Returns:
        A clause with operation, time and subject; None where value and derivatives are finite, or the value is not.
    """
    with torch.enable_grad():
        leaf = eta.detach().requires_grad_()
        value = conditional.log_joint(leaf)[0, start, subject]
        if not bool(torch.isfinite(value)) or not value.requires_grad:
            return None
        found = _first_infinite(value, leaf)
        if found is None:
            (slope,) = gradients(value, leaf, create_graph=True)
            found = _first_infinite(slope.sum(), leaf) if slope.requires_grad else None
    if found is None:
        return None
    name, place = found
    density = conditional.density
    when = ""
    if place is not None:
        index = density._observed[0].index
        record = place if index is None or len(density._observed) > 1 else int(index[place, subject])
        when = f" at time {float(density.batch.times[record, subject]):g}"
    return (
        f"the derivative of {name!r}{when} of subject {density.batch.subjects[subject]!r} is not finite, though the "
        "value is; write the equation so that it has one there, such as c + 1e-12 in place of c"
    )


def _first_infinite(value: Tensor, leaf: Tensor) -> tuple[str, int | None] | None:
    """The first node backwards from a value that makes a cotangent infinite, and the record where it does."""
    found: list[tuple[str, int | None]] = []
    records = []

    def watch(node: Any) -> Any:
        def hook(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> None:
            if found or not all(bar is None or bool(torch.isfinite(bar).all()) for bar in outputs):
                return
            for bar in inputs:
                bad = None if bar is None else ~torch.isfinite(bar)
                if bad is not None and bool(bad.any()):
                    record = int(bad.nonzero()[0, 0]) if bad.dim() == 4 else None
                    found.append((_called(node.name()), record))

        return node.register_hook(hook)

    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        records.append(watch(node))
        stack += [following for following, _ in node.next_functions]
    try:
        with AbsoluteZeros():
            torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    finally:
        for handle in records:
            handle.remove()
    return found[0] if found else None


def _called(node: str) -> str:
    """What a node of the graph is called by who wrote the operation."""
    if node.startswith(("_Arrivals", "_Transpose", "_Replay")):
        return "the solution of dynamics"
    if node.startswith("_Evaluation"):
        return "compartments"
    return node.rstrip("0123456789").removesuffix("Backward").lower()
