"""A program cut in two gives the same, and does nothing twice."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scalar_programs import outputs, programs, values

from nlme_torch.model.compiled.split import depends_on_records, split
from nlme_torch.solve.kernel.program import Program, Ref


def in_two(parts, inputs):
    """The outputs of both parts, one after the other."""
    held = outputs(parts.before, inputs, parts.held)
    after = {("own", index): value for index, value in enumerate(held)}
    after |= {key: value for key, value in inputs.items() if key[0] == "y"}
    return [outputs(parts.at_records, after, group) for group in parts.outputs]


@settings(max_examples=150, deadline=None)
@given(programs(), st.integers(0, 5))
def test_two_parts_are_the_whole(made, seed):
    program, chosen = made
    inputs = values(seed=seed)
    groups = [chosen, chosen[:1], ()]
    for found, group in zip(in_two(split(program, groups), inputs), groups, strict=True):
        torch.testing.assert_close(found, outputs(program, inputs, group), rtol=0.0, atol=0.0)


@settings(max_examples=100, deadline=None)
@given(programs())
def test_nothing_that_is_the_same_at_all_records_is_done_at_each(made):
    program, chosen = made
    parts = split(program, [chosen])
    for index, (name, _) in enumerate(parts.at_records.instructions):
        if name == "input" or (name == "ne" and parts.at_records.instructions[index][1][1] == 0.0):
            continue  # what is held, and masks among it
        assert depends_on_records(parts.at_records, Ref(index))
    assert not any(depends_on_records(program, operand) for operand in parts.held)
    assert len(set(parts.held)) == len(parts.held)


@settings(max_examples=60, deadline=None)
@given(programs(), st.integers(0, 3))
def test_what_depends_on_records_moves_with_them_alone(made, seed):
    program, chosen = made
    first, second = values(seed=seed), values(seed=seed)
    second |= {key: value + 0.3 for key, value in second.items() if key[0] == "y"}
    for operand in chosen:
        if not depends_on_records(program, operand):
            assert torch.equal(outputs(program, first, (operand,)), outputs(program, second, (operand,)))


def test_a_truth_value_of_the_subject_is_one_at_records():
    program = Program()
    own, changing = program.input("own", 0), program.input("y", 0)
    mask = program.apply("lt", own, 0.0)
    chosen = program.apply("select", mask, program.apply("mul", 2.0, changing), changing)
    parts = split(program, [(chosen,)])
    assert parts.held == (mask,)
    for value, expected in ((-1.0, 6.0), (1.0, 3.0)):
        inputs = {("own", 0): torch.tensor(value).double(), ("y", 0): torch.tensor(3.0).double()}
        assert in_two(parts, inputs)[0].item() == expected


def test_numbers_stay_numbers():
    parts = split(Program(), [(2.5,), ()])
    assert parts.outputs == ((2.5,), ()) and parts.held == ()
