"""What to write instead, for the mistakes that are made in the code of a model."""

import re

from torch import Tensor

from nlme_torch.data.table.closest import closest
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.signatures import as_written

TENSORS = (
    "The code of a model is evaluated for all subjects at once: t, the states and the parameters are tensors with one "
    "value for each subject, and plain arithmetic and the functions of torch are what they take."
)


def remedy(model: Model, method: str, error: Exception, line: str) -> str:
    """Say what to write in place of a line that raised an exception.

    Args:
        model: The model.
        method: Name of the method in which it happened.
        error: What was raised.
        line: The line.
    """
    declared = [name for name in re.findall(r"\bself\.(\w+)", line) if name in model.components]
    if declared and isinstance(error, TypeError | ValueError | AttributeError | RuntimeError):
        name = declared[0]
        return f"self.{name} is the declaration of a parameter; write p.{name}, which is its value."
    if isinstance(error, NameError):
        return _of_name(model, method, str(getattr(error, "name", "") or ""))
    if isinstance(error, AttributeError):
        return _of_attribute(model, method, error, line)
    said = str(error)
    if "return_types" in said:
        return "torch.max(x, n) looks along an axis: write torch.maximum(a, b), or x.clamp(min=0.0) for a bound."
    if "indices must be integers" in said:
        return f"A state is an attribute: write y.{model.states[0]}." if model.states else TENSORS
    if "index out of range" in said or "to unpack" in said:
        count = len(model.states)
        return f"There {'is 1 state' if count == 1 else f'are {count} states'}: {', '.join(model.states) or 'none'}."
    if "must be Tensor, not" in said or "must be tensors" in said or "must be a Tensor" in said:
        if "Tensor, not NoneType" in said:
            return f"Something is None here; does predict return its value? {TENSORS}"
        return (
            "Functions of torch take tensors: of a plain number write math.exp(0.5) or torch.tensor(0.5), and a bound "
            "as x.clamp(min=0.0)."
        )
    if "must all be instances of Number, torch.Tensor" in said:
        return (
            "A distribution takes numbers and tensors: what predict returned must be one, and a parameter is p.sigma, "
            "not self.sigma."
        )
    if "numpy" in said or "ndarray" in said:
        return "Arrays of NumPy do not mix with tensors: write a plain number, or torch.tensor([...])."
    if "missing" in said and "argument" in said:
        return "Give the argument, as in dist.Normal(y.central / p.v, p.sigma)."
    return TENSORS


def _of_name(model: Model, method: str, name: str) -> str:
    if name in model.states:
        return f"{name!r} is a state: write y.{name}."
    if name in model.components:
        return f"{name!r} is a parameter: write p.{name}."
    begins = f"What the method is given is named in its first line, {as_written(method)[:-1]}"
    return f"{begins}; states are y.{model.states[0]}, ..." if model.states else f"{begins}."


def _of_attribute(model: Model, method: str, error: AttributeError, line: str) -> str:
    owner, name = error.obj, str(error.name)
    if re.search(rf"\by\.{name}\s*([-+*/]|\*\*)?=(?!=)", line) or "set attribute" in str(error):
        return "A state cannot be assigned to: dynamics returns its derivative, and initial its first value."
    if isinstance(owner, tuple) and getattr(owner, "_fields", None) == model.states:
        if name in model.components:
            return f"{name!r} is a parameter: write p.{name}."
        near = closest(name, model.states)
        guess = f" Did you mean y.{near}?" if near else ""
        return f"The states are {', '.join(model.states)}.{guess}"
    if isinstance(owner, Tensor):
        if name in model.states or name in model.components:
            return f"This value is one number, not what holds {name!r}; the method begins {as_written(method)}"
        return f"This value is a tensor, and its functions are those of torch. {TENSORS}"
    if isinstance(owner, Model):
        near = closest(name, model.components)
        return f"Parameters are p.{near or next(iter(model.components), 'cl')}, declared in __init__."
    return TENSORS
