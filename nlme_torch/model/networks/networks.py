"""Networks whose weights are one flat vector, shared by all subjects or one vector per subject."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nlme_torch._typing import Float
from nlme_torch.errors import ModelError
from nlme_torch.model.networks.network_checks import check_constraints, checked_scale
from nlme_torch.model.parameters.priors import check_prior, log_prior

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "softplus": nn.functional.softplus,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "exp": torch.exp,
}


class Network(nn.Module):
    """A function of scalars with a flat weight vector; subclasses say how it is evaluated.

    Args:
        weights: Initial weights, ``(weight,)``.
        n_inputs: Number of scalar inputs.
        n_outputs: Number of scalar outputs.
        prior: Univariate distribution of every weight and bias, or None.
    """

    def __init__(
        self, weights: Float[Tensor, "weight"], n_inputs: int, n_outputs: int, prior: Distribution | None
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.prior = check_prior(prior, type(self).__name__)

    def bind(self, weights: Tensor) -> "BoundNetwork":
        """Return the network with given weights, ready to be called with scalars.

        Args:
            weights: ``(weight, *batch)`` as they are estimated.
        """
        return BoundNetwork(self, weights)

    def evaluate(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Apply the network.

        Args:
            weights: ``(weight, *batch)`` of a bound network, the batch right-aligned with that of the inputs.
            inputs: ``(input, *batch)``.

        Returns:
            ``(output, *batch)``.
        """
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        """Draw new initial weights in place."""
        raise NotImplementedError

    def weight_names(self) -> list[str]:
        """Return one label per weight."""
        return [f"[{index}]" for index in range(self.weights.shape[0])]

    def natural(self, weights: Tensor) -> Tensor:
        """Return the weights ``(start, weight)``: their natural scale is their estimation scale."""
        return weights

    def log_prior(self, weights: Tensor) -> Tensor:
        """Return the log prior density of the weights, ``(start,)``."""
        return log_prior(self.prior, weights)


class MLP(Network):
    r"""A multilayer perceptron with smooth activations.

    .. math:: h_0 = x, \quad h_l = a(W_l h_{l-1} + b_l), \quad y = o(W_L h_{L-1} + b_L)

    Weights are ordered layer by layer, W (row-major, out x in) then b. They start from Glorot's uniform
    distribution with zero biases, drawn from a generator seeded by the attribute's name, so that a model is
    the same every time it is made; ``model.initialise(seed)`` draws others.

    Args:
        *sizes: Inputs, hidden widths ..., outputs; ``MLP(2, 6, 1)`` has 25 weights.
        activation: Hidden activation: tanh, softplus, sigmoid or silu (non-smooth ones slow an adaptive solver).
        output: Output activation: identity, softplus, exp, sigmoid or tanh; softplus, exp and sigmoid are positive.
        increasing: Positions of inputs in which every output increases, at all values of the other inputs.
        decreasing: Positions of inputs in which every output decreases.
        zero_at_zero: Whether the output is zero where all inputs are: a network without biases.
        scale: What inputs are divided by: one positive number per input, or ``"auto"`` for their typical size along
            the first solution that a fit computes (:func:`nlme_torch.model.density.network_scales.scale_networks`);
            ``"standard"`` subtracts their mean along it first and divides by their standard deviation, for inputs
            that vary little about a large value, as covariates do; None leaves them as they are.
        output_scale: What the outputs are multiplied by: one positive number per output, or ``"auto"`` for the size at
            which they move the first solution by as much as the data vary; None leaves them as they are. For
            ``output="identity"``.
        prior: Univariate distribution of every weight and bias (``L2(1.0)``), or None; of a scaled network, of the
            weights that act on scaled inputs and make unscaled outputs.

    Raises:
        ModelError: Fewer than two sizes, a size below one, an unknown activation, constraints that contradict one
            another, or a scale that is not positive.

    A network is monotone in an input when the first layer's weights of that input have one sign, and all later ones
    are positive: these are ``softplus`` of what is estimated.

    A tanh whose input is far from one in size is either flat or a step, and the gradient of its weights vanishes: scale
    inputs that are not of order one.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.MLP(2, 6, 1).weights.shape
        torch.Size([25])
        >>> nlme.MLP(1, 4, 1, increasing=[0], zero_at_zero=True).weights.shape
        torch.Size([8])

    References:
        Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, AISTATS.
        Sill (1997), Monotonic networks, NIPS 10.
    """

    scale: Tensor
    centre: Tensor
    output_scale: Tensor

    def __init__(
        self,
        *sizes: int,
        activation: str = "tanh",
        output: str = "identity",
        increasing: Sequence[int] = (),
        decreasing: Sequence[int] = (),
        zero_at_zero: bool = False,
        scale: Literal["auto", "standard"] | Sequence[float] | None = None,
        output_scale: Literal["auto"] | Sequence[float] | None = None,
        prior: Distribution | None = None,
    ) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ModelError(
                f"MLP needs the number of inputs, hidden units and outputs, e.g. MLP(2, 6, 1); got {sizes}."
            )
        for name in (activation, output):
            if name not in ACTIVATIONS:
                raise ModelError(f"MLP: unknown activation {name!r}; choose from {', '.join(ACTIVATIONS)}.")
        check_constraints(sizes[0], activation, output, increasing, decreasing, zero_at_zero)
        self.sizes, self.activation, self.output = sizes, activation, output
        self.increasing, self.decreasing = tuple(increasing), tuple(decreasing)
        self.zero_at_zero = zero_at_zero
        layers = zip(sizes[:-1], sizes[1:], strict=True)
        count = sum((inputs + self._biases) * outputs for inputs, outputs in layers)
        super().__init__(torch.zeros(count, dtype=torch.float64), sizes[0], sizes[-1], prior)
        self._signs = self._sign_of_weights()
        measured = {"auto": ("scale",), "standard": ("scale", "centre")}.get(
            scale if isinstance(scale, str) else "", ()
        )
        self.measured = (*measured, *(("output_scale",) if output_scale == "auto" else ()))
        self.awaits_scale = self.automatic
        if scale is not None:
            divisors = (1.0,) * sizes[0] if scale in ("auto", "standard") else scale
            self.register_buffer("scale", checked_scale(divisors, sizes[0]))
        if scale == "standard":
            if zero_at_zero:
                raise ModelError("MLP: scale='standard' moves zero, and zero_at_zero keeps it; use scale='auto'.")
            self.register_buffer("centre", torch.zeros(sizes[0], dtype=torch.float64))
        if output_scale is not None:
            if output != "identity":
                raise ModelError(f"MLP: output_scale multiplies output='identity', not {output!r}.")
            factors = (1.0,) * sizes[-1] if output_scale == "auto" else output_scale
            self.register_buffer("output_scale", checked_scale(factors, sizes[-1], "output"))
        self.initialise(torch.Generator().manual_seed(0))

    @property
    def _biases(self) -> int:
        """Biases per unit, one or none."""
        return 0 if self.zero_at_zero else 1

    def _sign_of_weights(self) -> Tensor | None:
        """The sign that each weight must have, 0 where it is free, ``(weight,)``; None without constraints."""
        if not (self.increasing or self.decreasing):
            return None
        pieces = []
        for layer, (n_in, n_out) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            row = torch.ones(n_in, dtype=torch.float64)
            if layer == 0:
                row = torch.zeros_like(row)
                row[list(self.increasing)] = 1.0
                row[list(self.decreasing)] = -1.0
            pieces += [row.repeat(n_out), torch.zeros(self._biases * n_out, dtype=torch.float64)]
        return torch.cat(pieces)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw Glorot-uniform weights and zero biases in place."""
        pieces = []
        for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = math.sqrt(6 / (inputs + outputs))
            uniform = torch.rand(outputs * inputs, generator=generator, dtype=torch.float64)
            pieces += [bound * (2 * uniform - 1), torch.zeros(self._biases * outputs, dtype=torch.float64)]
        drawn = torch.cat(pieces)
        if self._signs is not None:  # the estimated number whose softplus is the size drawn
            drawn = torch.where(self._signs == 0, drawn, drawn.abs().clamp_min(1e-2).expm1().log())
        self.weights.data = drawn.to(self.weights)

    @property
    def automatic(self) -> bool:
        """Whether a fit measures any of the scales."""
        return bool(self.measured)

    @property
    def centred(self) -> bool:
        """Whether something is subtracted from the inputs before they are divided."""
        return hasattr(self, "centre")

    def set_scale(self, scale: Sequence[float], centre: Sequence[float] | None = None) -> None:
        """Divide inputs by these numbers from now on, in place.

        Args:
            scale: One positive number per input, in the unit of the input.
            centre: What is subtracted before, one number per input, of a network with ``scale="standard"``; None
                leaves it as it is.

        Raises:
            ModelError: The network was made without a scale, or the numbers do not suit.
        """
        if not hasattr(self, "scale"):
            raise ModelError(f"{self} was made without a scale; write MLP(..., scale='auto').")
        if centre is not None:
            if not self.centred or len(centre) != self.sizes[0] or not all(map(math.isfinite, centre)):
                raise ModelError(f"{self} has no centre, or other than {len(centre)} inputs; see scale='standard'.")
            self.centre = torch.tensor(tuple(centre), dtype=torch.float64).to(self.scale.device)
        self.scale = checked_scale(scale, self.sizes[0]).to(self.scale)
        self.awaits_scale = False

    def set_measured(self, name: str, value: Tensor) -> None:
        """Put a scale back that was measured before, in place.

        Args:
            name: One of :attr:`measured`.
            value: The scale.
        """
        setattr(self, name, value.to(self.weights))
        self.awaits_scale = False

    def set_output_scale(self, scale: Sequence[float]) -> None:
        """Multiply outputs by these numbers from now on, in place.

        Args:
            scale: One positive number per output, in the unit of the output.

        Raises:
            ModelError: The network was made without an output scale, or the numbers do not suit.
        """
        if not hasattr(self, "output_scale"):
            raise ModelError(f"{self} was made without an output scale; write MLP(..., output_scale='auto').")
        self.output_scale = checked_scale(scale, self.sizes[-1], "output").to(self.output_scale)
        self.awaits_scale = False

    def bind(self, weights: Tensor) -> "BoundNetwork":
        """Return the network with given weights, constraints and the scale of the inputs put into them.

        A scale inside the weights costs nothing per evaluation, and reaches a compiled solver as an argument: a scale
        read inside the dynamics would be compiled in, and stay when it changes.

        Args:
            weights: ``(weight, *batch)`` as they are estimated.
        """
        ones = (1,) * (weights.dim() - 1)
        if self._signs is not None:
            signs = self._signs.to(weights).reshape(-1, *ones)
            weights = torch.where(signs == 0, weights, signs * nn.functional.softplus(weights))
        if hasattr(self, "scale"):
            count = self.sizes[0] * self.sizes[1]
            first = weights[:count] / self.scale.to(weights).repeat(self.sizes[1]).reshape(-1, *ones)
            if self.centred:
                units = self.sizes[1]
                moved = (first * self.centre.to(first).repeat(units).reshape(-1, *ones)).unflatten(0, (units, -1))
                bias = weights[count : count + units] - moved.sum(1)
                weights = torch.cat([first, bias, weights[count + units :]])
            else:
                weights = torch.cat([first, weights[count:]])
        if hasattr(self, "output_scale"):
            n_in, n_out = self.sizes[-2:]
            factors = self.output_scale.to(weights)
            last = torch.cat([factors.repeat_interleave(n_in), factors.repeat(self._biases)]).reshape(-1, *ones)
            kept = len(weights) - len(last)
            weights = torch.cat([weights[:kept], last * weights[kept:]])
        return BoundNetwork(self, weights)

    def evaluate(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Apply the network to ``(input, *batch)`` with the weights ``(weight, *batch)`` of a bound network."""
        shared = weights[0].numel() == 1
        hidden, start = inputs, 0
        last = len(self.sizes) - 2
        for layer, (n_in, n_out) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            matrix = weights[start : start + n_in * n_out]
            start += n_in * n_out
            bias = weights.new_zeros(n_out, *weights.shape[1:])
            if not self.zero_at_zero:
                bias = weights[start : start + n_out]
                start += n_out
            if shared:
                flat = torch.addmm(bias.reshape(n_out, 1), matrix.reshape(n_out, n_in), hidden.reshape(n_in, -1))
                hidden = flat.reshape(n_out, *hidden.shape[1:])
            else:
                hidden = _affine(matrix, bias, hidden, n_in, n_out)
            hidden = ACTIVATIONS[self.output if layer == last else self.activation](hidden)
        return hidden

    def weight_names(self) -> list[str]:
        """Return labels such as ``W1[0,1]`` and ``b2[0]``."""
        names = []
        for layer, (n_in, n_out) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True), start=1):
            names += [f"W{layer}[{row},{column}]" for row in range(n_out) for column in range(n_in)]
            names += [f"b{layer}[{row}]" for row in range(self._biases * n_out)]
        return names

    def extra_repr(self) -> str:
        """Show the layer sizes in the module's printed form."""
        shape = f"{'-'.join(map(str, self.sizes))}, {self.activation}, output={self.output}"
        for word, inputs in (("increasing", self.increasing), ("decreasing", self.decreasing)):
            shape += f", {word} in {', '.join(map(str, inputs))}" if inputs else ""
        if self.awaits_scale:
            shape += ", to be scaled by the first fit"
        elif hasattr(self, "scale"):
            if self.centred:
                shape += f", inputs less {', '.join(f'{value:.3g}' for value in self.centre.tolist())}"
            shape += f", inputs divided by {', '.join(f'{value:.3g}' for value in self.scale.tolist())}"
        if hasattr(self, "output_scale") and not self.awaits_scale:
            shape += f", outputs times {', '.join(f'{value:.3g}' for value in self.output_scale.tolist())}"
        return f"{shape}{', zero at zero' if self.zero_at_zero else ''}, {len(self.weights)} weights"


class BoundNetwork:
    """A network with the weights of the current subjects, called with scalars: ``p.effect(concentration, p.z)``.

    Args:
        network: The network.
        weights: ``(weight, *batch)``, as :meth:`Network.bind` makes them from what is estimated.
    """

    def __init__(self, network: Network, weights: Tensor) -> None:
        self.network, self.weights = network, weights

    def __call__(self, *inputs: Tensor | float | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Evaluate the network.

        Args:
            *inputs: Scalars, each a tensor ``(*batch)``, a number, or a tuple of such (a ``Latent``).

        Returns:
            ``(*batch)`` for one output, else a tuple of them.

        Raises:
            ModelError: The number of inputs is not what the network was made for.
        """
        scalars: list[Tensor] = []
        for value in inputs:
            for scalar in value if isinstance(value, tuple | list) else (value,):
                scalars.append(scalar if isinstance(scalar, Tensor) else self.weights.new_tensor(scalar))
        if self.network.n_inputs not in (-1, len(scalars)):
            raise ModelError(f"{self.network} takes {self.network.n_inputs} inputs but was called with {len(scalars)}.")
        stacked = torch.stack(torch.broadcast_tensors(*scalars)) if len(scalars) > 1 else scalars[0][None]
        outputs = self.network.evaluate(self.weights, stacked)
        return outputs[0] if outputs.shape[0] == 1 else tuple(outputs.unbind(0))


def align(tensor: Tensor, batch_dimensions: int) -> Tensor:
    """Insert axes after the first one so that the batch axes are right-aligned."""
    missing = batch_dimensions - (tensor.dim() - 1)
    return tensor.reshape(tensor.shape[0], *(1,) * missing, *tensor.shape[1:]) if missing > 0 else tensor


def _affine(matrix: Tensor, bias: Tensor, hidden: Tensor, n_in: int, n_out: int) -> Tensor:
    """Per-subject ``W h + b``, accumulated input by input: fuses, and needs no (out, in, batch) product."""
    batch_dimensions = max(matrix.dim(), hidden.dim()) - 1
    matrix, bias = align(matrix, batch_dimensions), align(bias, batch_dimensions)
    matrix = matrix.reshape(n_out, n_in, *matrix.shape[1:])
    hidden = align(hidden, batch_dimensions)
    result = bias
    for index in range(n_in):
        result = torch.addcmul(result, matrix[:, index], hidden[index])
    return result
