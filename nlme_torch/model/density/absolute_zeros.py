r"""Derivatives in which an exact zero stays zero whatever it is multiplied by.

A value may be finite where a derivative on the way to it is not: :math:`c^\gamma` and :math:`\sqrt c` of a
concentration that is still 0, :math:`n \log(k t)` at time 0 inside an exponential. In the chain rule such an infinite
factor meets an exact zero, as c does not depend on the parameters there, and IEEE arithmetic makes NaN of the product.
Automatic differentiation with an absolute zero gives the limit instead, the derivative of the same model with
:math:`t + \varepsilon` in place of t.

References:
    Bell and Burke (2008), Algorithmic differentiation of implicit functions and optimal values, in: Advances in
    Automatic Differentiation, doi:10.1007/978-3-540-68942-3_7 (absolute zero products as in CppAD).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class AbsoluteZeros(TorchDispatchMode):
    """While active, products with an exact zero are zero: what PyTorch's derivative formulas are made of."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in _IN_PLACE:
            return args[0].copy_(self.__torch_dispatch__(_IN_PLACE[packet], types, args, kwargs))
        result = func(*args, **kwargs)
        repair = _REPAIRS.get(packet)
        if repair is None and packet.__name__.endswith("_backward"):
            repair = _backward
        if repair is None or not isinstance(result, Tensor) or not bool(torch.isnan(result).any()):
            return result
        return repair(result, *args, **kwargs)


def gradients(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    materialize_grads: bool = False,
    evaluated: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``, once more with absolute zeros where the result is not finite; the graph is retained.

    Args:
        outputs: What is differentiated.
        inputs: By what.
        grad_outputs: Cotangents of the outputs, ones if None.
        create_graph: Whether the result is to be differentiated again.
        materialize_grads: Whether zeros stand for inputs that do not matter.
        evaluated: ``(*batch)``, True where the outputs have a value; where they have none, derivatives
            ``(component, *batch)`` need not be finite. None expects all of them to be.

    Returns:
        One gradient per input.
    """

    def differentiate() -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            outputs,
            inputs,
            grad_outputs,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=materialize_grads,
        )

    found = differentiate()
    if all(_is_finite(gradient, evaluated) for gradient in found):
        return found
    with AbsoluteZeros():
        return differentiate()


def _is_finite(gradient: Tensor, evaluated: Tensor | None) -> bool:
    finite = torch.isfinite(gradient)
    if evaluated is not None and gradient.shape[1:] == evaluated.shape:
        finite = finite.all(0) | ~evaluated
    return bool(finite.all())


def _product(left: Tensor, right: Any) -> Tensor:
    return torch.where((left == 0) | (right == 0), 0.0, left * right)


def _mul(result: Tensor, left: Tensor, right: Any) -> Tensor:
    return torch.where((left == 0) | (right == 0), 0.0, result)


def _div(result: Tensor, left: Any, right: Any, **_: Any) -> Tensor:
    return torch.where(torch.as_tensor(left == 0, device=result.device), 0.0, result)


def _addcmul(result: Tensor, base: Tensor, left: Tensor, right: Tensor, value: float = 1) -> Tensor:
    return base + value * _product(left, right)


def _mm(result: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return _product(left.unsqueeze(-1), right.unsqueeze(-3)).sum(-2)


def _addmm(result: Tensor, base: Tensor, left: Tensor, right: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * base + alpha * _mm(result, left, right)


def _mv(result: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return _product(left, right).sum(-1)


def _backward(result: Tensor, cotangent: Any, *_: Any, **__: Any) -> Tensor:
    """An elementwise formula in one operation: linear in the cotangent."""
    if not isinstance(cotangent, Tensor) or cotangent.shape != result.shape:
        return result
    return torch.where(cotangent == 0, 0.0, result)


_IN_PLACE = {aten.mul_: aten.mul, aten.div_: aten.div, aten.addcmul_: aten.addcmul}
_REPAIRS: dict[Any, Callable[..., Tensor]] = {
    aten.mul: _mul, aten.div: _div, aten.addcmul: _addcmul, aten.mm: _mm, aten.bmm: _mm, aten.addmm: _addmm,
    aten.baddbmm: _addmm, aten.mv: _mv, aten.dot: _mv,
}  # fmt: skip
