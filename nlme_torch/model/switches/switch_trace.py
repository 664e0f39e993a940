"""Where ``dynamics`` switches in time: comparisons of the time with what no state enters.

``dynamics`` is called once, and every tensor that appears is known by how it moves between two records: fixed, held
(it may jump from one interval to the next), in a straight line, as a known function of one (a sine, a power),
otherwise, or with the states. An operation that jumps while its operands move in straight lines, or as such a function,
is a switch; its operands are written down, so that the moments at which it jumps can be found at any parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nlme_torch.model.switches.time_curves import CURVES
from nlme_torch.model.switches.time_jumps import ABOVE, COMPARISONS, JUMPS, Restored, jump_name, restored
from nlme_torch.model.switches.time_tape import Bend, Operation, Place, Switch, Tape


class Motion(IntEnum):
    """How a quantity moves between two stops."""

    FIXED = 0
    HELD = 1
    STRAIGHT = 2
    CURVED = 3
    OTHERWISE = 4
    WITH_STATES = 5


@dataclass(frozen=True)
class Switches:
    """The switches of ``dynamics``.

    Attributes:
        tape: What their operands are.
        switches: Each of them.
        calls: For every call in ``dynamics`` of an operation that may jump, the switch that decides and how the
            result follows from it; None where the operation itself decides.
        branches: Whether Python or whole numbers decide by something that depends on the time, and is not followed.
    """

    tape: Tape
    switches: tuple[Switch, ...]
    calls: tuple[tuple[int, Restored] | None, ...]
    branches: bool = False


class Notice(TorchFunctionMode):
    """While active, notices whether an operation is called that may jump."""

    noticed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.noticed = self.noticed or jump_name(func, args, kwargs) is not None
        return func(*args, **(kwargs or {}))


class Tracing(TorchFunctionMode):
    """While active, follows how everything moves that is computed.

    Args:
        time: The time.
        changing: What changes from record to record.
        parameters: What holds at all times.
        states: The states.
        interpolated: Whether what changes moves in straight lines, rather than being held between records.
    """

    def __init__(
        self,
        time: Tensor,
        changing: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[Tensor],
        interpolated: bool,
    ) -> None:
        super().__init__()
        self._shape = time.shape
        self._alive: list[Any] = [time, *changing, *parameters, *states]  # or an id could be lent to another
        self._motion: dict[int, Motion] = {}
        self._place: dict[int, int] = {}
        self._operations: list[Operation] = []
        self._known: dict[Any, int] = {}
        between = Motion.STRAIGHT if interpolated else Motion.HELD
        for index, value in enumerate((time, *changing, *parameters)):
            self._place[id(value)] = index
            motion = Motion.STRAIGHT if index == 0 else between if index <= len(changing) else Motion.FIXED
            outside = index > len(changing) and value.dim() > len(time.shape)
            self._motion[id(value)] = Motion.OTHERWISE if outside else motion
        self._inputs = len(self._place)
        self._levels = [0] * self._inputs
        self._moves = [False] + [True] * (self._inputs - 1)
        for value in states:
            self._motion[id(value)] = Motion.WITH_STATES
        self._bends: dict[int, Bend] = {}
        self._switches: list[Switch] = []
        self._numbers: dict[Any, int] = {}
        self._calls: list[tuple[int, Restored] | None] = []
        self._lost = self._branches = False

    def found(self) -> Switches:
        """What was found; nothing where what happens cannot be followed."""
        if self._lost:
            return Switches(Tape(self._inputs, ()), (), (), self._branches)
        return Switches(
            Tape(self._inputs, tuple(self._operations)), tuple(self._switches), tuple(self._calls), self._branches
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch.no_grad():  # some operations have no derivative
            result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point():
            result.requires_grad_()  # what PyTorch does not show gives a tensor that requires a gradient and is no leaf
        name = getattr(func, "__name__", "")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        motion = max((self._motion_of(tensor) for tensor in tensors), default=Motion.FIXED)
        jump = jump_name(func, args, kwargs)
        self._calls += [None] if jump else []
        if name in _READS and tensors:
            self._lost = True
            self._branches = self._branches or motion not in (Motion.FIXED, Motion.WITH_STATES)
        in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        self._lost = self._lost or in_place or "out" in kwargs
        if not isinstance(result, Tensor):
            for value in tree_leaves(result) if isinstance(result, tuple | list) else ():
                if isinstance(value, Tensor):
                    self._label(value, max(motion, Motion.OTHERWISE))
            return result
        if id(result) not in self._motion:
            self._follow(func, name.strip("_"), jump, args, kwargs, motion, result)
        return result

    def _follow(
        self, func: Any, name: str, jump: str | None, args: Any, kwargs: Any, motion: Motion, result: Tensor
    ) -> None:
        """Label what an operation gave, and write the operation down if it can be repeated at other times."""
        if name in _CONVERSIONS and isinstance(args[0], Tensor) and jump is None:
            motion = self._motion_of(args[0])
            func, args, kwargs = _convert, (args[0], result.dtype), {}
        elif self._is_constant(name, args, kwargs, result):
            value = result.detach().reshape(())
            self._label(result, Motion.FIXED, self._write(Operation(lambda: value, ()), 0, False))
            return
        if motion is Motion.WITH_STATES:
            self._label(result, motion)
        elif jump is not None and motion in (Motion.STRAIGHT, Motion.CURVED):
            self._switch(func, jump, args, kwargs, result)
        elif motion is Motion.STRAIGHT and self._is_bend(name, args, kwargs, result):
            place = self._record(func, name, args, kwargs)
            self._bends[place] = Bend(CURVES[name], Place(place), Place(self._place[id(args[0])]))
            self._label(result, Motion.CURVED, place)
        elif motion is Motion.CURVED and name != "where" and self._is_linear(name, args, kwargs, result):
            bend = self._bend_of(args)
            if bend is None:
                self._label(result, Motion.OTHERWISE)
                return
            place = self._record(func, name, args, kwargs)
            self._bends[place] = bend
            self._label(result, Motion.CURVED, place)
        elif (motion <= Motion.HELD and name in _ELEMENTWISE) or (
            motion is Motion.STRAIGHT and self._is_linear(name, args, kwargs, result)
        ):
            self._label(result, motion, self._record(func, name, args, kwargs))
        else:
            self._label(result, max(motion, Motion.OTHERWISE))

    def _is_constant(self, name: str, args: Any, kwargs: Any, result: Tensor) -> bool:
        """Whether a tensor was made of plain numbers."""
        given = args[1:] if name in _LIKE else args
        plain = not any(isinstance(leaf, Tensor) for leaf in tree_leaves((given, kwargs)))
        return (name in _LIKE or name in _MADE) and plain and result.numel() == 1

    def _motion_of(self, value: Tensor) -> Motion:
        if id(value) not in self._motion:
            # from outside; or from a function that PyTorch does not show, which may depend on anything
            known = value.numel() == 1 and (value.is_leaf or not value.requires_grad)
            hidden = value.requires_grad and not value.is_leaf
            motion = Motion.WITH_STATES if hidden else Motion.FIXED if known else Motion.OTHERWISE
            place = self._write(Operation(lambda: value.reshape(()), ()), 0, value.requires_grad) if known else None
            self._label(value, motion, place)
        return self._motion[id(value)]

    def _label(self, value: Tensor, motion: Motion, place: int | None = None) -> None:
        self._alive.append(value)
        self._motion[id(value)] = motion
        if place is not None:
            self._place[id(value)] = place

    def _write(self, operation: Operation, level: int, moves: bool) -> int:
        self._operations.append(operation)
        self._levels.append(level)
        self._moves.append(moves)
        return self._inputs + len(self._operations) - 1

    def _record(self, func: Any, name: str, args: Any, kwargs: Any) -> int:
        operands, named = self._placed(args), tuple((key, self._placed((v,))[0]) for key, v in kwargs.items())
        key = (name, _hashable(operands), _hashable(named))
        if key not in self._known:
            if any(isinstance(value, Place) for _, value in named):
                keys, values = tuple(kwargs), tuple(value for _, value in named)
                count = len(operands)

                def call(*all: Any) -> Any:
                    return func(*all[:count], **dict(zip(keys, all[count:], strict=True)))

                operation = Operation(call, (*operands, *values))
            else:
                operation = Operation(func, operands, named)
            self._known[key] = self._write(operation, *self._origin((*operands, *(value for _, value in named))))
        return self._known[key]

    def _switch(self, func: Any, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        if name in COMPARISONS:
            exchanged = COMPARISONS[name][0]
            jump, usable = ABOVE, len(args) == 2 and not kwargs
            operands = self._placed(args[::-1] if exchanged else args)
        else:
            jump, operands = JUMPS[name], self._placed(args)
            operands = operands[:1] if name in ("long", "int") else operands
            usable = len(operands) == jump.level.__code__.co_argcount and set(kwargs) <= {"rounding_mode", "dtype"}
            usable = usable and (len(operands) == 1 or self._is_linear("div", args, {}, result))
        motions = [self._motion_of(arg) for arg in args if isinstance(arg, Tensor)]
        bend = self._bend_of(args) if Motion.CURVED in motions else None
        if Motion.CURVED in motions:
            usable = usable and bend is not None and not jump.whole
        if not usable or result.shape != self._shape:
            self._label(result, Motion.OTHERWISE)
            self._branches = self._branches or not result.is_floating_point()
            return
        level, moves = self._origin(operands)
        key = (id(jump), _hashable(operands))
        if key not in self._numbers:
            self._numbers[key] = len(self._switches)
            self._switches.append(Switch(jump, operands, level, moves, bend))
        number, how = self._numbers[key], restored(name)
        self._calls[-1] = number, how
        operation = Operation(func, self._placed(args), tuple(kwargs.items()), number, how)
        place = self._write(operation, level + 1, moves)
        self._label(result, Motion.STRAIGHT if jump.moves else Motion.HELD, place)

    def _is_bend(self, name: str, args: Any, kwargs: Any, result: Tensor) -> bool:
        """Whether an operation is a known function of a straight line alone."""
        numbers = [arg for arg in args[1:] if not isinstance(arg, Tensor)]  # an exponent of the subject's own may move
        squared = isinstance(args[0], Tensor) and len(args) == 2 and numbers in ([2], [2.0])
        alone = squared if name == "pow" else len(args) == 1
        return name in CURVES and alone and not kwargs and result.dtype is self._alive[0].dtype

    def _bend_of(self, args: Any) -> Bend | None:
        """The one curve in which operands are linear, if there is one."""
        moving = [arg for arg in args if isinstance(arg, Tensor) and self._motion_of(arg) > Motion.HELD]
        bends = [self._bends.get(self._place[id(arg)]) for arg in moving]
        return bends[0] if bends and all(bend is bends[0] for bend in bends) else None

    def _origin(self, operands: Any) -> tuple[int, bool]:
        places = [operand.index for operand in operands if isinstance(operand, Place)]
        return max((self._levels[p] for p in places), default=0), any(self._moves[p] for p in places)

    def _placed(self, args: Any) -> tuple[Any, ...]:
        return tuple(Place(self._place[id(arg)]) if isinstance(arg, Tensor) else arg for arg in args)

    def _is_linear(self, name: str, args: Any, kwargs: Any, result: Tensor) -> bool:
        """Whether an operation on what moves in straight lines gives what does so too."""
        straight = [isinstance(arg, Tensor) and self._motion_of(arg) > Motion.HELD for arg in args]
        if any(isinstance(value, Tensor) for value in kwargs.values()) or result.dtype is not self._alive[0].dtype:
            return False
        if name in _SAME or name in _SUMS or name == "where":
            return True
        if name in _PRODUCTS:
            return sum(straight) == 1
        return name in _RATIOS and straight == [True, False] and not kwargs


def _convert(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)


def _hashable(operands: Any) -> Any:
    return tuple(
        operand if isinstance(operand, Place) else (type(operand).__name__, repr(operand)) for operand in operands
    )


_CONVERSIONS = frozenset({"to", "type", "type_as", "double", "float", "bool", "int", "long"})
_MADE = frozenset({"tensor", "as_tensor", "scalar_tensor", "full", "zeros", "ones"})
_LIKE = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor"})
_SAME = frozenset({"neg", "negative", "positive", "pos", "clone", "detach", "convert", *_CONVERSIONS})
_SUMS = frozenset({"add", "radd", "sub", "subtract", "rsub"})
_PRODUCTS = frozenset({"mul", "multiply", "rmul"})
_RATIOS = frozenset({"div", "divide", "true_divide", "truediv"})
_ELEMENTWISE = frozenset(
    {
        *_SAME, *_SUMS, *_PRODUCTS, *_RATIOS, *COMPARISONS, *JUMPS, "rdiv", "rtruediv", "reciprocal", "pow", "rpow",
        "float_power", "square", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "abs",
        "absolute", "sigmoid", "tanh", "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "atan2", "erf",
        "lgamma", "logit", "softplus", "relu", "minimum", "maximum", "fmin", "fmax", "clamp", "clip", "clamp_min",
        "clamp_max", "where", "lerp", "addcmul", "eq", "ne", "not_equal", "and", "or", "xor",
        "invert", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or",
        "bitwise_not", "bitwise_xor", "isfinite", "isnan",
    }
)  # fmt: skip
_READS = frozenset(
    {
        "numpy", "__array__", "tolist", "item", "__float__", "__int__", "__bool__", "__index__", "__contains__",
        "__complex__", "equal", "allclose", "is_nonzero",
    }
)  # fmt: skip
_IN_PLACE = frozenset(
    {
        "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ifloordiv__", "__imod__", "__ipow__",
        "__iand__", "__ior__", "__ixor__", "__setitem__",
    }
)  # fmt: skip
