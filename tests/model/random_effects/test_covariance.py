"""Covariance structures: the matrix they stand for, and the closed-form M-step against numerical maximisation."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from support.analytic import random_covariance
from support.small_models import DOUBLE, Line, number

import nlme_torch as nlme
from nlme_torch.model.random_effects.covariance import FixedCovariance, FullCovariance

STRUCTURES = {
    "diagonal": nlme.Diagonal(0.3),
    "scalar": nlme.Scalar(0.3),
    "full": nlme.Full(0.3),
    "fixed": nlme.Fixed(0.3),
}


def raw(covariance, starts=1):
    return {name: value.detach().expand(starts, *value.shape).clone() for name, value in covariance.named_parameters()}


@pytest.mark.parametrize("name", STRUCTURES)
def test_initial_matrix_is_the_variance_times_the_identity(name):
    covariance = STRUCTURES[name].build(3)
    torch.testing.assert_close(covariance.current(), 0.3 * torch.eye(3, dtype=DOUBLE), rtol=1e-14, atol=1e-15)
    factor = covariance.cholesky(raw(covariance))
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(factor @ factor.mT, covariance.matrix(raw(covariance)))
    assert covariance.free() is (name != "fixed")
    assert covariance.diagonal is (name != "full")


def test_full_covariance_holds_any_matrix_for_every_start(generator):
    matrices = torch.stack([random_covariance(4, generator) for _ in range(3)])
    covariance = FullCovariance(matrices[0])
    torch.testing.assert_close(covariance.current(), matrices[0], rtol=1e-12, atol=1e-14)
    values = covariance.maximise(matrices)
    torch.testing.assert_close(covariance.matrix(values), matrices, rtol=1e-12, atol=1e-14)


def test_fixed_covariance_holds_any_matrix(generator):
    matrix = random_covariance(3, generator)
    assert FixedCovariance(matrix).diagonal is False
    torch.testing.assert_close(FixedCovariance(matrix).current(), matrix, rtol=1e-12, atol=1e-14)
    assert FixedCovariance(matrix).maximise(matrix[None]) == {}


def expected_log_density(matrix, moment):
    return -0.5 * np.linalg.slogdet(matrix)[1] - 0.5 * np.trace(np.linalg.solve(matrix, moment))


@pytest.mark.parametrize("name", ["diagonal", "scalar", "full"])
def test_maximise_is_the_numerical_maximum_over_the_structure(name, generator):
    covariance = STRUCTURES[name].build(3)
    moments = torch.stack([random_covariance(3, generator) for _ in range(2)])
    found = covariance.matrix(covariance.maximise(moments)).numpy()
    shapes = {key: value.shape for key, value in covariance.named_parameters()}
    assert len(shapes) == 1
    ((key, shape),) = shapes.items()
    for start, moment in enumerate(moments.numpy()):

        def objective(vector, moment=moment):
            matrix = covariance.matrix({key: torch.from_numpy(vector).reshape(1, *shape)})[0].numpy()
            return -expected_log_density(matrix, moment)

        best = minimize(objective, np.zeros(shape.numel()), method="BFGS", options={"gtol": 1e-9})
        assert -objective(covariance.maximise(moments)[key][start].numpy().reshape(-1)) >= -best.fun - 1e-10
        numeric = covariance.matrix({key: torch.from_numpy(best.x).reshape(1, *shape)})[0].numpy()
        np.testing.assert_allclose(found[start], numeric, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_raw_parameters(generator):
    matrix = random_covariance(3, generator)
    covariance = FullCovariance(matrix)
    leaf = {"factor": raw(covariance)["factor"].requires_grad_()}
    torch.autograd.gradcheck(lambda factor: covariance.matrix({"factor": factor}), (leaf["factor"],))


def test_gradients_of_the_full_factor_survive_extreme_entries():
    """Entries below the diagonal are not on the log scale: a large one must not overflow an unused exponential."""
    covariance = FullCovariance(torch.eye(2, dtype=DOUBLE))
    packed = number([[0.0, 800.0, 0.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(covariance.cholesky({"factor": packed}).sum(), packed)
    assert gradient.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("kind", [nlme.Diagonal, nlme.Scalar, nlme.Full, nlme.Fixed])
@pytest.mark.parametrize("variance", [0.0, -0.1, float("nan"), float("inf")])
def test_a_variance_must_be_positive(kind, variance):
    with pytest.raises(
        nlme.ModelError, match=f"{kind.__name__}: a variance must be a positive number.*drop the random effect"
    ):
        kind(variance).build(2)


def test_low_rank_needs_a_rank():
    with pytest.raises(nlme.ModelError, match="rank of at least 1"):
        nlme.LowRank(0)


# ------------------------------------------------------------------ declarations


def declared(*omegas, a=None, b=None):
    class Declared(Line):
        def __init__(self):
            super().__init__(a=a, b=b)
            for index, omega in enumerate(omegas):
                setattr(self, f"omega_{index}", omega)

    return Declared()


def test_a_full_block_takes_initial_variances_from_its_parameters():
    model = declared(
        nlme.Omega("b", "a", structure="full"), a=nlme.Normal(1.0, omega=0.2), b=nlme.Normal(1.0, omega=0.5)
    )
    (block,) = model.blocks
    assert block.labels == ("eta_b", "eta_a") and block.owners == ("b", "a") and block.name == "omega_0"
    torch.testing.assert_close(block.covariance.current(), torch.diag(number([0.5, 0.2])))


def test_a_structure_object_replaces_them():
    (block,) = declared(nlme.Omega("a", "b", structure=nlme.Fixed(0.7))).blocks
    torch.testing.assert_close(block.covariance.current(), 0.7 * torch.eye(2, dtype=DOUBLE))
    assert not block.covariance.free()


def test_blocks_stand_in_a_stated_order_without_gaps():
    model = declared(nlme.Omega("b", structure="diagonal"), a=nlme.Normal(1.0, omega=nlme.Fixed(0.3)))
    assert [(block.name, block.start, block.stop, block.kind) for block in model.blocks] == [
        ("omega_0", 0, 1, "individual"),
        ("individual_fixed", 1, 2, "individual"),
    ]
    assert model.effect_labels == ("eta_b", "eta_a") and model.n_effects == 2


@pytest.mark.parametrize(
    "omegas, a, words",
    [
        (
            [nlme.Omega("a", "ka")],
            None,
            "Omega 'omega_0' names 'ka', which is not an individual parameter; there are 'a', 'b'",
        ),
        ([nlme.Omega("a", "sigma")], None, "names 'sigma', which is not an individual"),
        ([nlme.Omega("a"), nlme.Omega("b", "a")], None, "'a' stands in two Omega blocks"),
        ([nlme.Omega("a", "b")], nlme.Fixed(0.1), "'a' has a fixed omega and cannot stand in Omega 'omega_0'"),
        ([nlme.Omega("a", "b", structure=nlme.Full(-1.0))], None, "Full: a variance must be a positive number"),
    ],
)
def test_wrong_declarations_say_what_is_wrong(omegas, a, words):
    with pytest.raises(nlme.ModelError, match=words):
        declared(*omegas, a=nlme.Normal(1.0, omega=a if a else 0.2))


@pytest.mark.parametrize("parameters", [(), ("a", "a")])
def test_omega_needs_different_parameters(parameters):
    with pytest.raises(nlme.ModelError, match="different individual parameters"):
        nlme.Omega(*parameters)


# ------------------------------------------------------------------ matrices that are given, whole or in part

GIVEN = [[0.3, 0.05, -0.02], [0.05, 0.2, 0.04], [-0.02, 0.04, 0.5]]


@pytest.mark.parametrize("kind", [nlme.Full, nlme.Fixed])
@pytest.mark.parametrize("form", [GIVEN, [row[: k + 1] for k, row in enumerate(GIVEN)], np.array(GIVEN), number(GIVEN)])
def test_a_structure_takes_a_matrix_or_its_lower_triangle(kind, form):
    covariance = kind(form).build(3)
    torch.testing.assert_close(covariance.current(), number(GIVEN), rtol=1e-13, atol=1e-15)
    assert covariance.free() is (kind is nlme.Full)
    assert kind(form) == kind(GIVEN) and hash(kind(form)) == hash(kind(GIVEN))


def test_diagonal_takes_one_variance_for_each_effect():
    torch.testing.assert_close(nlme.Diagonal([0.1, 0.4]).build(2).current(), torch.diag(number([0.1, 0.4])))
    with pytest.raises(nlme.ModelError, match="Diagonal gives 2 variances for 3 random effects"):
        nlme.Diagonal([0.1, 0.4]).build(3)


@pytest.mark.parametrize("kind", [nlme.Full, nlme.Fixed])
@pytest.mark.parametrize(
    "matrix, words",
    [
        (
            [[0.1, 0.2], [0.2, 0.1]],
            r"\[\[0.1, 0.2\], \[0.2, 0.1\]\] is not positive definite \(smallest eigenvalue -0.1\)",
        ),
        ([[0.1, 0.02], [0.03, 0.1]], "must be symmetric"),
        ([[0.1, 0.02]], r"square matrix or its lower triangle row by row, got rows of \[2\]"),
        ([[0.1], [float("nan"), 0.1]], "must hold finite numbers"),
        ([[0.1], ["a", 0.1]], "must hold finite numbers"),
        ([[-0.1]], "not positive definite"),
    ],
)
def test_a_matrix_must_be_a_covariance_matrix(kind, matrix, words):
    with pytest.raises(nlme.ModelError, match=f"{kind.__name__}.*{words}"):
        kind(matrix)


def test_the_size_of_a_matrix_is_checked():
    with pytest.raises(nlme.ModelError, match="Full gives a matrix of 3 random effects; the block has 2"):
        nlme.Full(GIVEN).build(2)
    with pytest.raises(nlme.ModelError, match="Fixed gives a matrix of 3"):
        nlme.Fixed(GIVEN).build(2)


F = nlme.Fixed
PARTLY = {
    "a covariance": [[0.3], [F(0.05), 0.2], [-0.02, 0.04, 0.5]],
    "a variance": [[0.3], [0.05, F(0.2)], [-0.02, 0.04, 0.5]],
    "a band": [[0.3], [0.05, 0.2], [F(0.0), 0.04, 0.5]],
    "one block": [[F(0.3)], [F(0.05), F(0.2)], [-0.02, 0.04, 0.5]],
}


@pytest.mark.parametrize("name", PARTLY)
def test_single_entries_can_be_given(name, generator):
    structure = nlme.Full(PARTLY[name])
    covariance = structure.build(3)
    given = torch.tensor([[isinstance(entry, F) for entry in row] for row in structure.variance])
    start = covariance.current()
    assert covariance.free() and len(raw(covariance)["entries"][0]) == 6 - int(given.tril().sum())
    moments = torch.stack([random_covariance(3, generator) for _ in range(4)] + [start])
    found = covariance.matrix(covariance.maximise(moments))
    torch.testing.assert_close(found[:, given], start[given].expand(5, -1), rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(found[4], start, rtol=1e-12, atol=1e-14)  # the maximum of an allowed moment is itself
    rng = np.random.default_rng(0)
    for moment, matrix in zip(moments.numpy(), found.numpy(), strict=True):
        inverse = np.linalg.inv(matrix)
        score = inverse @ (moment - matrix) @ inverse
        np.testing.assert_allclose(score[~given.numpy()], 0.0, atol=1e-6 * np.abs(inverse).max())
        reached = expected_log_density(matrix, moment)
        for _ in range(100):
            change = 0.3 * rng.normal(size=(3, 3)) * ~given.numpy()
            there = matrix + rng.choice([1e-3, 0.1, 1.0]) * (change + change.T)
            if np.linalg.eigvalsh(there)[0] > 0:
                assert expected_log_density(there, moment) <= reached + 1e-12


def test_values_without_a_covariance_matrix_have_no_factor():
    covariance = nlme.Full([[0.3], [F(0.2), 0.2]]).build(2)
    values = {"entries": torch.log(number([[0.3, 0.2], [0.1, 0.1]]).sqrt())}
    factor = covariance.cholesky(values)
    assert torch.isfinite(factor[0]).all() and torch.isnan(factor[1]).all()
    nothing = covariance.maximise(torch.full((1, 2, 2), torch.nan, dtype=DOUBLE))
    assert nothing["entries"].shape == (1, 2)
    singular = covariance.maximise(number([[[0.1, 0.1], [0.1, 0.1]]]))
    assert torch.isfinite(covariance.cholesky(singular)).all()


def test_a_declared_block_holds_the_matrix_it_was_given():
    (block,) = declared(nlme.Omega("b", "a", structure=nlme.Full([[0.1], [F(0.01), 0.2]]))).blocks
    torch.testing.assert_close(block.covariance.current(), number([[0.1, 0.01], [0.01, 0.2]]))
    with pytest.raises(nlme.ModelError, match="is a fixed matrix; as an attribute Fixed holds a number"):
        declared(F(GIVEN))
    with pytest.raises(nlme.ModelError, match="a variance must be a positive number"):
        nlme.Normal(1.0, omega=F(GIVEN))
