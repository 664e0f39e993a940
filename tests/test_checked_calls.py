"""The annotations of the package are checked while tests run, at first calls and at late ones."""

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from support import checked_calls
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.inference.numerics.linear_algebra import inverse
from nlme_torch.settings import check_at_least


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError):
        inverse(torch.zeros(2, 3))
    with pytest.raises(TypeCheckError):
        check_at_least(None, SolveError, "one", "name")


def test_late_calls_are_checked_and_those_between_are_not():
    def same_length(left: Float[Tensor, "n"], right: Float[Tensor, "n"]) -> None:
        pass

    checked_calls.begin_test()
    function = checked_calls.checked(same_length, typechecker=beartype)
    caught = []
    for call in range(1, 20):
        try:
            function(torch.zeros(1), torch.zeros(2))
        except TypeCheckError:
            caught.append(call)
    assert caught == [1, 2, 4, 8, 16]
    checked_calls.begin_test()
    with pytest.raises(TypeCheckError):
        function(torch.zeros(1), torch.zeros(2))


def test_functions_that_are_made_again_and_again_are_checked_like_one():
    def made():
        def same_length(left: Float[Tensor, "n"], right: Float[Tensor, "n"]) -> None:
            pass

        return checked_calls.checked(same_length, typechecker=beartype)

    checked_calls.begin_test()
    caught = []
    for call in range(1, 10):
        try:
            made()(torch.zeros(1), torch.zeros(2))
        except TypeCheckError:
            caught.append(call)
    assert caught == [1, 2, 4, 8]
