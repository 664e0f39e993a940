"""Small programs of scalar operations: random ones, and what they are in Python or PyTorch."""

import math

import torch
from hypothesis import strategies as st

from nlme_torch.solve.kernel.program import Program, Ref

TORCH = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "zmul": lambda a, b: torch.where((a == 0) | (b == 0), torch.zeros_like(a * b), a * b),
    "div": lambda a, b: a / b,
    "zdiv": lambda a, b: torch.where(a == 0, torch.zeros_like(a / b), a / b),
    "neg": lambda a: -a,
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "pow": torch.pow,
    "lt": lambda a, b: a < b,
    "gt": lambda a, b: a > b,
    "eq": lambda a, b: a == b,
    "and": lambda a, b: a & b,
    "not": lambda a: ~a,
    "select": lambda c, a, b: torch.where(c, a, b),
    "ne": lambda a, b: a != b,
}
SMOOTH = ("add", "sub", "mul", "div", "exp", "tanh", "sigmoid", "sin", "square", "select")


def run(program, inputs):
    """All results of a program, as tensors.

    Args:
        program: What is done.
        inputs: (kind, index) to a tensor.
    """
    results = []

    def value(operand):
        if isinstance(operand, Ref):
            return results[operand.index]
        return torch.tensor(operand) if isinstance(operand, bool) else torch.tensor(float(operand), dtype=torch.float64)

    for name, operands in program.instructions:
        if name == "input":
            results.append(inputs[operands])
            continue
        found = [value(operand) for operand in operands]
        if name not in ("select", "and", "not"):
            found = [x.double() if x.dtype is torch.bool else x for x in found]
        if name == "select" and found[1].dtype is not found[2].dtype:
            found[1:] = [x.double() for x in found[1:]]
        results.append(TORCH[name](*found))
    return results, value


def outputs(program, inputs, operands):
    """The values of operands of a program, as a vector."""
    _, value = run(program, inputs)
    return torch.stack([value(operand).double() for operand in operands]) if operands else torch.zeros(0)


@st.composite
def programs(draw, own=3, changing=2, most=14):
    """A program of inputs ("own", i) and ("y", i), and some of its operands; all values stay moderate."""
    program = Program()
    pool = [program.input("own", index) for index in range(own)]
    pool += [program.input("y", index) for index in range(changing)]
    masks = []
    for _ in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(SMOOTH))
        first, second = (draw(st.sampled_from([*pool, 0.7, -1.3, 2.0])) for _ in range(2))
        if name in ("add", "sub"):
            found = program.apply(name, first, program.apply("mul", 0.5, second))
        elif name == "mul":
            found = program.apply("mul", first, program.apply("tanh", second))
        elif name == "div":
            found = program.apply("div", first, program.apply("add", 2.0, program.apply("sin", second)))
        elif name == "square":
            inner = program.apply("tanh", first)
            found = program.apply("pow", program.apply("add", 2.0, inner), second)
        elif name == "select":
            condition = program.apply("lt", first, second)
            masks.append(condition)
            if len(masks) > 1 and draw(st.booleans()):
                condition = program.apply("and", condition, program.apply("not", masks[-2]))
            found = program.apply("select", condition, program.apply("mul", 2.0, first), second)
        elif name in ("exp", "sin"):
            found = program.apply(name, program.apply("tanh", first))
        else:
            found = program.apply(name, first)
        if isinstance(found, Ref):
            pool.append(found)
    chosen = draw(
        st.lists(st.sampled_from([*pool, *[m for m in masks if isinstance(m, Ref)], 3.5]), min_size=1, max_size=4)
    )
    return program, tuple(chosen)


def values(own=3, changing=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(own + changing, generator=generator, dtype=torch.float64)
    found = {("own", index): numbers[index] for index in range(own)}
    return found | {("y", index): numbers[own + index] for index in range(changing)}


def is_close(one, other):
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-12)
