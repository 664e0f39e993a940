"""Any ``nn.Module`` as a network of a model."""

import copy

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nlme_torch.errors import ModelError
from nlme_torch.model.networks.networks import Network, align


class ModuleNetwork(Network):
    """Any ``nn.Module`` as a network: features on the last axis in and out; slower than ``MLP``.

    Args:
        module: Maps ``(..., input)`` to ``(..., output)``; a copy of it is used, in double precision and evaluation
            mode
            (no dropout). If none of its parameters requires a gradient, its weights are kept.
        prior: Univariate distribution of every parameter, or None.

    Raises:
        ModelError: The module has no parameters, has some frozen and some free ones, or has buffers (the running
            statistics of a batch norm, say), which would depend on who else is in the batch.
    """

    def __init__(self, module: nn.Module, prior: Distribution | None = None) -> None:
        kind, parameters = type(module).__name__, dict(module.named_parameters())
        if not parameters:
            raise ModelError(f"{kind} has no parameters; call it inside dynamics as a plain function.")
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            raise ModelError(f"{kind} has buffers ({', '.join(buffers)}); use layers without running statistics.")
        free = {parameter.requires_grad for parameter in parameters.values()}
        if len(free) > 1:
            raise ModelError(f"{kind} has frozen and free parameters; put them into two modules.")
        flat = torch.cat([parameter.detach().double().reshape(-1) for parameter in parameters.values()])
        super().__init__(flat, n_inputs=-1, n_outputs=-1, prior=prior)
        self.weights.requires_grad_(free == {True})
        self._layout = [(name, parameter.shape) for name, parameter in parameters.items()]
        # in a tuple, so that the module's own parameters are not registered again
        self._module = (copy.deepcopy(module).double().eval(),)

    def initialise(self, generator: torch.Generator) -> None:
        """Keep the module's own initial weights."""

    def evaluate(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Apply the module to ``(input, *batch)`` with weights ``(weight, *batch)``."""
        if weights[0].numel() == 1:
            return self._call(weights.reshape(-1), inputs.movedim(0, -1)).movedim(-1, 0)
        batch = torch.broadcast_shapes(weights.shape[1:], inputs.shape[1:])
        flat_weights = align(weights, len(batch)).expand(-1, *batch).reshape(weights.shape[0], -1)
        flat_inputs = align(inputs, len(batch)).expand(-1, *batch).reshape(inputs.shape[0], -1)
        outputs = torch.func.vmap(self._call, in_dims=1, out_dims=1)(flat_weights, flat_inputs)
        return outputs.reshape(-1, *batch)

    def _call(self, weights: Tensor, features: Tensor) -> Tensor:
        parameters, start = {}, 0
        for name, shape in self._layout:
            parameters[name] = weights[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
        return torch.func.functional_call(self._module[0], parameters, (features,))
