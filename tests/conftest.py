"""What every test may rely on: one thread, and a skip for tests that need a GPU where there is none."""

import jaxtyping
import pytest
import torch
from support import checked_calls

jaxtyping.jaxtyped = checked_calls.checked  # before the package is imported

import nlme_torch as nlme  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def pytest_runtest_setup(item):
    checked_calls.begin_test()


@pytest.fixture(autouse=True)
def numerics_left_as_found():
    """No test, and nothing that a test calls, may leave a changed global setting behind."""
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.distributions.Distribution._validate_args)
    yield
    after = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.distributions.Distribution._validate_args)
    assert after == before, "a global setting of torch was changed and not restored"


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def theophylline():
    return nlme.examples.theophylline()
