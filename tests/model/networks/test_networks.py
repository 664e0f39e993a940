"""Networks against torch.nn, shared and per subject, with every broadcasting that user code can cause."""

import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.small_models import DOUBLE, number
from torch import nn

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.networks.module_network import ModuleNetwork
from nlme_torch.model.networks.networks import ACTIVATIONS, BoundNetwork

LAYERS = {"tanh": nn.Tanh, "softplus": nn.Softplus, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "identity": nn.Identity}


def sequential(sizes, activation, output):
    layers = []
    for index, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = index == len(sizes) - 2
        layers += [nn.Linear(n_in, n_out), LAYERS[output if last else activation]()]
    return nn.Sequential(*layers).double()


def flat_weights(module):
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize(
    "sizes, activation, output",
    [
        ((1, 2, 1), "tanh", "identity"),
        ((3, 5, 4, 2), "softplus", "sigmoid"),
        ((2, 3), "tanh", "softplus"),
        ((2, 4, 1), "silu", "tanh"),
    ],
)
def test_mlp_is_torch_sequential_with_the_same_weights(sizes, activation, output):
    torch_generator_state = torch.get_rng_state()
    reference = sequential(sizes, activation, output)
    torch.set_rng_state(torch_generator_state)
    mlp = nlme.MLP(*sizes, activation=activation, output=output)
    weights = flat_weights(reference)
    assert mlp.weights.shape == weights.shape and len(mlp.weight_names()) == len(weights)
    inputs = draw(sizes[0], 7, 4)
    expected = reference(inputs.movedim(0, -1)).movedim(-1, 0)
    torch.testing.assert_close(mlp.evaluate(weights[:, None, None], inputs), expected, rtol=1e-13, atol=1e-14)
    # the same numbers through the per-subject path: every subject has the same weights
    repeated = weights[:, None, None].expand(-1, 7, 4).contiguous()
    torch.testing.assert_close(mlp.evaluate(repeated, inputs), expected, rtol=1e-13, atol=1e-14)


def test_exponential_output():
    mlp, inputs = nlme.MLP(2, 3, 1, output="exp"), draw(2, 5)
    plain = nlme.MLP(2, 3, 1)
    weights = draw(13, 1)
    torch.testing.assert_close(mlp.evaluate(weights, inputs), plain.evaluate(weights, inputs).exp())


def test_weight_names_follow_the_layout():
    names = nlme.MLP(2, 2, 1).weight_names()
    assert names == ["W1[0,0]", "W1[0,1]", "W1[1,0]", "W1[1,1]", "b1[0]", "b1[1]", "W2[0,0]", "W2[0,1]", "b2[0]"]


@pytest.mark.parametrize("generic", [False, True], ids=["MLP", "ModuleNetwork"])
@pytest.mark.parametrize(
    "weight_batch, input_batch",
    [
        ((4, 3, 5), (4, 3, 5)),  # chain, start, subject on both
        ((3, 1), (4, 3, 5)),  # population weights, one set per start
        ((4, 3, 5), (1, 1, 5)),  # an input that is the same for every chain, such as time
        ((4, 1, 5), (6, 4, 1, 5)),  # records in front, as in observe and predict
        ((1, 1, 5), (6, 1, 1, 5)),
        ((4, 3, 5), ()),  # a plain number
        ((1, 1), (4, 3, 5)),  # shared weights
        ((1, 1, 1), (6, 1, 1, 1)),  # one subject alone
    ],
)
def test_per_subject_weights_are_a_loop_over_subjects(generic, weight_batch, input_batch):
    sizes = (2, 3, 2)
    reference = sequential(sizes, "tanh", "identity")
    network = ModuleNetwork(reference) if generic else nlme.MLP(*sizes)
    count = len(network.weights)
    weights, inputs = draw(count, *weight_batch, seed=1), draw(2, *input_batch, seed=2)
    outputs = BoundNetwork(network, weights)(*inputs.unbind(0))
    batch = torch.broadcast_shapes(weight_batch, input_batch)
    stacked = torch.stack([output.expand(batch) for output in outputs])
    flat_weights_ = weights.reshape(count, *(1,) * (len(batch) - len(weight_batch)), *weight_batch).expand(-1, *batch)
    flat_inputs = inputs.reshape(2, *(1,) * (len(batch) - len(input_batch)), *input_batch).expand(-1, *batch)
    for place in [tuple(index.tolist()) for index in torch.ones(batch).nonzero()]:
        nn.utils.vector_to_parameters(flat_weights_[(slice(None), *place)].contiguous(), reference.parameters())
        expected = reference(flat_inputs[(slice(None), *place)])
        torch.testing.assert_close(stacked[(slice(None), *place)], expected.detach(), rtol=1e-12, atol=1e-13)


def test_the_generic_path_equals_the_mlp_with_gradients():
    reference = sequential((2, 3, 1), "tanh", "identity")
    generic, mlp = ModuleNetwork(reference), nlme.MLP(2, 3, 1)
    inputs = draw(2, 4, 3, 5)
    for batch in ((4, 3, 5), (1, 1, 1)):
        gradients = []
        for network in (generic, mlp):
            weights = draw(13, *batch, seed=3).requires_grad_()
            (gradient,) = torch.autograd.grad(network.evaluate(weights, inputs).square().sum(), weights)
            gradients.append(gradient)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(generic.weights.detach(), flat_weights(reference))


def test_inputs_may_be_numbers_and_tuples():
    mlp = nlme.MLP(3, 2, 1)
    bound = BoundNetwork(mlp, draw(11, 2, 1, 5))
    z = (draw(2, 1, 5, seed=1), draw(2, 1, 5, seed=2))
    stacked = torch.stack([torch.full((2, 1, 5), 0.5, dtype=DOUBLE), *z])
    torch.testing.assert_close(bound(0.5, z), mlp.evaluate(bound.weights, stacked)[0])


def test_a_wrong_number_of_inputs_is_refused():
    bound = BoundNetwork(nlme.MLP(2, 3, 1), draw(13, 1, 1))
    with pytest.raises(nlme.ModelError, match="takes 2 inputs but was called with 3"):
        bound(1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: nlme.MLP(2), r"MLP needs the number of inputs, hidden units and outputs.*got \(2,\)"),
        (lambda: nlme.MLP(2, 0, 1), "MLP needs"),
        (lambda: nlme.MLP(2, 2, 1, activation="relu"), "unknown activation 'relu'; choose from"),
        (lambda: nlme.RandomWeights(nlme.MLP(1, 2, 1), nlme.LowRank(8)), r"LowRank\(8\) exceeds the 7 weights"),
        (lambda: nlme.RandomWeights(nn.Tanh()), "Tanh has no parameters"),
        (
            lambda: nlme.RandomWeights(nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))),
            r"buffers \(1.running_mean.*use layers without",
        ),
    ],
)
def test_malformed_networks_are_refused(make, words):
    with pytest.raises(nlme.ModelError, match=words):
        make()


def test_a_module_is_copied_not_changed():
    module = nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    network = ModuleNetwork(module)
    assert module[0].weight.dtype == torch.float32 and module.training
    inputs = draw(1, 50)
    weights = network.weights.detach()[:, None]
    torch.testing.assert_close(
        network.evaluate(weights, inputs), network.evaluate(weights, inputs), msg="dropout must be off"
    )


def test_a_frozen_module_keeps_its_weights():
    module = nn.Linear(1, 1)
    module.requires_grad_(False)
    assert not ModuleNetwork(module).weights.requires_grad
    module.bias.requires_grad_(True)
    with pytest.raises(nlme.ModelError, match="frozen and free"):
        ModuleNetwork(module)


def test_initial_weights_are_reproducible_and_within_glorots_bounds():
    one, two = nlme.MLP(4, 50, 1), nlme.MLP(4, 50, 1)
    assert torch.equal(one.weights, two.weights)
    first = one.weights.detach()[:200]
    bound = (6 / 54) ** 0.5
    assert first.abs().max() <= bound and first.abs().max() > 0.95 * bound
    assert (one.weights.detach()[200:250] == 0).all()
    two.initialise(torch.Generator().manual_seed(1))
    assert not torch.equal(one.weights, two.weights)


def test_low_rank_loading_is_lower_triangular():
    weights = nlme.RandomWeights(nlme.MLP(1, 2, 1), nlme.LowRank(3, scale=0.4))
    packed = torch.arange(1.0, 1 + len(weights.loading), dtype=DOUBLE)
    matrix = weights.loading_matrix(packed[None])[0]
    assert matrix.shape == (7, 3) and torch.equal(matrix, matrix.tril())
    entries = torch.stack([matrix[row, column] for row, column in weights.loading_entries()])
    assert torch.equal(entries, packed)
    torch.testing.assert_close(
        weights.loading_matrix(weights.loading.detach()[None])[0], 0.4 * torch.eye(7, 3, dtype=DOUBLE)
    )
    assert weights.n_effects == 3 and weights.low_rank


def test_default_covariance_of_random_weights_is_one_common_variance():
    weights = nlme.RandomWeights(nlme.MLP(1, 2, 1))
    assert weights.omega == nlme.Scalar(0.1) and weights.n_effects == 7


def test_every_activation_is_smooth():
    x = number([0.0]).requires_grad_()
    for name, activation in ACTIVATIONS.items():
        (slope,) = torch.autograd.grad(activation(x).sum(), x, create_graph=True)
        left, right = activation(x - 1e-6), activation(x + 1e-6)
        assert ((right - left) / 2e-6 - slope).abs().item() < 1e-6, name


@pytest.mark.parametrize("activation", ["tanh", "softplus", "sigmoid"])
@pytest.mark.parametrize("per_subject", [False, True])
def test_a_monotone_network_is_monotone_whatever_its_weights(activation, per_subject):
    network = nlme.MLP(3, 5, 4, 1, activation=activation, increasing=[0], decreasing=[2])
    generator = torch.Generator().manual_seed(0)
    shape = (len(network.weights), 200 if per_subject else 1)
    weights = 2 * torch.randn(*shape, generator=generator, dtype=DOUBLE)
    x = torch.randn(3, 200, generator=generator, dtype=DOUBLE).requires_grad_()
    (slope,) = torch.autograd.grad(network.bind(weights)(*x).sum(), x)
    assert (slope[0] >= 0).all() and (slope[2] <= 0).all() and (slope[0] > 0).any() and (slope[2] < 0).any()
    assert (slope[1] > 0).any() and (slope[1] < 0).any() or not per_subject, "the free input goes both ways"


def test_a_network_that_is_zero_at_zero():
    network = nlme.MLP(2, 4, 3, 1, activation="silu", zero_at_zero=True)
    weights = torch.randn(len(network.weights), 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert torch.equal(network.evaluate(weights, torch.zeros(2, 6, dtype=DOUBLE)), torch.zeros(1, 6, dtype=DOUBLE))
    assert (network.evaluate(weights, torch.ones(2, 6, dtype=DOUBLE)) != 0).all()
    assert len(network.weights) == 8 + 12 + 3 == len(network.weight_names())
    assert "zero at zero" in network.extra_repr()


def test_constrained_weights_begin_with_glorots_sizes():
    free, bound = nlme.MLP(2, 3, 1), nlme.MLP(2, 3, 1, increasing=[0, 1])
    sizes = torch.nn.functional.softplus(bound.weights)
    matrix = [index for index, name in enumerate(free.weight_names()) if name.startswith("W")]
    torch.testing.assert_close(sizes[matrix], free.weights[matrix].abs().clamp_min(1e-2))
    assert "increasing in 0, 1" in bound.extra_repr()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"increasing": [2]}, "must name different inputs by position, 0 to 1"),
        ({"increasing": [0], "decreasing": [0]}, "must name different inputs"),
        ({"increasing": [0], "activation": "silu"}, "silu is not monotone"),
        ({"zero_at_zero": True, "output": "softplus"}, "output='softplus' is not zero at zero"),
    ],
)
def test_constraints_that_cannot_be_kept_are_refused(settings, words):
    with pytest.raises(nlme.ModelError, match=words):
        nlme.MLP(2, 3, 1, **settings)


def test_a_monotone_network_is_solved_by_compiled_code():
    class Saturating(nlme.Model):
        states = ("central",)

        def __init__(self):
            super().__init__()
            self.k = nlme.LogNormal(0.5)
            self.loss = nlme.MLP(1, 3, 1, increasing=[0], zero_at_zero=True)
            self.sigma = nlme.Positive(1.0)

        def initial(self, p):
            return (10.0,)

        def dynamics(self, t, y, p):
            return (-p.k * y.central - p.loss(y.central),)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y.central, p.sigma)}

    frame = pd.DataFrame({"ID": [1, 1, 2, 2], "TIME": [0.0, 2.0, 1.0, 4.0], "DV": [10.0, 3.0, 10.0, 0.5]})
    batch = nlme.Dataset.from_frame(frame).batch()
    eta = torch.tensor([[0.3, -0.2]], dtype=DOUBLE)[:, None, None]
    solvers = nlme.Tsit5(1e-10, 1e-12), nlme.Tsit5(1e-10, 1e-12, compile=False)
    compiled, plain = (Density(Saturating(), batch, solver).at().log_joint(eta) for solver in solvers)
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-12)
