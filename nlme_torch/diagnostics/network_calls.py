"""What a network was asked while the model was solved, and what it answered."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.diagnostics.written_arguments import written_arguments
from nlme_torch.errors import ModelError
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.individual.individual import Individual, at_records
from nlme_torch.model.networks.networks import BoundNetwork, Network
from nlme_torch.model.networks.random_weights import RandomWeights

LONGEST = 40
"""Characters of an argument up to which it is a label."""


@dataclass(frozen=True)
class NetworkCalls:
    """All calls of one network along the solutions of all subjects.

    Attributes:
        labels: What each input is: the name of the state, parameter, latent or covariate that the model
            passed as it is, ``time`` or ``time / 24``, otherwise what the call says (``central / v``), or ``input 1``,
            ``input 2``, ... where the source is not known.
        times: ``(record, subject)`` [data's time unit].
        observed: ``(record, subject)``, True where the data have an observation.
        solved: ``(record, subject)``, False on padding and for subjects whose equation could not be solved.
        inputs: ``(input, call, record, chain, subject)``; a model may call a network more than once.
        outputs: ``(output, call, record, chain, subject)``, the network's own, before the model does more to
            them.
    """

    labels: tuple[str, ...]
    times: Float[Tensor, "record subject"]
    observed: Bool[Tensor, "record subject"]
    solved: Bool[Tensor, "record subject"]
    inputs: Float[Tensor, "input call record chain subject"]
    outputs: Float[Tensor, "output call record chain subject"]


def check_network(model: torch.nn.Module, name: str) -> None:
    """Raise a ModelError unless a model's attribute is a network."""
    networks = [key for key, part in model.named_children() if isinstance(part, Network | RandomWeights)]
    if name not in networks:
        known = ", ".join(networks) if networks else "none"
        raise ModelError(f"{type(model).__name__} has no network {name!r}; its networks: {known}.")


def network_calls(
    conditional: Conditional,
    name: str,
    eta: Float[Tensor, "effect chain subject"],
    along: Float[Tensor, "effect subject"] | None = None,
) -> NetworkCalls:
    """Record every call of a network at given random effects.

    Args:
        conditional: Densities at the parameters; their batch says at which times.
        name: The network's attribute name.
        eta: The random effects.
        along: Record the first time only, with states that were solved at these effects: what inputs that do
            not change along a subject's solution (latents, parameters, covariates) are under other effects.

    Returns:
        The calls, in the order in which the model makes them.

    Raises:
        ModelError: The model never calls the network.
    """
    batch, model = conditional.density.batch, conditional.density.model
    check_network(model, name)
    columns = eta[:, :, None]
    times, mask = batch.times[:, None, None], batch.record_mask
    states: tuple[Tensor, ...] | None = None
    with torch.no_grad():
        individual = conditional.individual(columns)
        if model.has_dynamics:
            base = columns if along is None else along[:, None, None]
            states, solved = conditional.predict(conditional.individual(base), base)
            mask = mask & solved.reshape(-1, batch.n_subjects)[0]
        if along is not None:
            times, mask = times[:1], mask[:1]
            states = None if states is None else tuple(state[:1] for state in states)
        recorder = _Recorder(getattr(individual, name))
        p = Individual({**at_records(vars(individual), lambda value: value[: len(times)]), name: recorder})
        _run(conditional, recorder, p, times, states)
    if not recorder.calls:
        raise ModelError(f"{type(model).__name__} never calls its network {name!r}: there is nothing to show.")
    shape = (times.shape[0], eta.shape[1], 1, batch.n_subjects)
    inputs, outputs = (
        torch.stack(
            [torch.stack([value.expand(shape)[:, :, 0] for value in call[side]]) for call in recorder.calls],
            1,
        )
        for side in (0, 1)
    )
    labels = _with_times(recorder.labels[0], recorder.written[0], inputs, times[:, 0, 0], mask)
    observed = torch.stack([outcome.mask for outcome in batch.outcomes.values()]).any(0)[: len(mask)]
    return NetworkCalls(labels, times[:, 0, 0], observed, mask, inputs, outputs)


def _run(
    conditional: Conditional,
    recorder: "_Recorder",
    p: Individual,
    times: Tensor,
    states: tuple[Tensor, ...] | None,
) -> None:
    """Call all user code that may call the network."""
    model = conditional.density.model
    covariates = conditional.density.covariates
    recorder.know(vars(p), vars(covariates))
    model.individual(p, covariates)
    if states is None:
        recorder.know(vars(p), vars(covariates), {"time": times})
        model.observe(times, model.predict(times, p, covariates), p)
        return
    model.initial(_at(p, 0))
    steps = []
    before, recorder.calls = recorder.calls, []
    for record in range(0 if model.has_compartments else times.shape[0]):
        y, now = model.state_tuple()(*(state[record] for state in states)), _at(p, record)
        recorder.know(vars(now), y._asdict(), {"time": times[record]})
        model.dynamics(times[record], y, now)
        steps.append(recorder.calls)
        recorder.calls = []
    if model.has_compartments:
        model.compartments(p)
        before, recorder.calls = before + recorder.calls, []
    # the same call of every record, as one value along the record axis
    for calls in zip(*steps, strict=True):
        inputs, outputs = zip(*calls, strict=True)
        before.append((_along_records(inputs), _along_records(outputs)))
    recorder.calls = before
    y = model.state_tuple()(*states)
    recorder.know(vars(p), y._asdict(), {"time": times})
    model.observe(times, y, p)


def _at(p: Individual, record: int) -> Individual:
    """The parameters at one record."""
    return Individual(at_records(vars(p), lambda value: value[record]))


def _along_records(values: Sequence[list[Tensor]]) -> list[Tensor]:
    """Turn one list of scalars per record into one tensor ``(record, chain, start, subject)`` per scalar."""
    aligned = [[part.reshape((1,) * (3 - part.dim()) + part.shape) for part in record] for record in values]
    return [torch.stack(torch.broadcast_tensors(*scalar)) for scalar in zip(*aligned, strict=True)]


class _Recorder(BoundNetwork):
    """A network that remembers what it was called with and under which names the arguments are known."""

    def __init__(self, bound: BoundNetwork) -> None:
        super().__init__(bound.network, bound.weights)
        self.calls: list[tuple[list[Tensor], list[Tensor]]] = []
        self.labels: list[list[str | None]] = []
        self.written: list[list[str | None]] = []
        self._names: dict[int, str] = {}

    def know(self, *named: Any) -> None:
        """Take the names of the tensors that user code is about to be given."""
        self._names = {}
        for values in named:
            for name, value in values.items():
                parts = value if isinstance(value, tuple) else (value,)
                for index, part in enumerate(parts):
                    if isinstance(part, Tensor):
                        self._names[id(part)] = f"{name}[{index}]" if isinstance(value, tuple) else name

    def __call__(self, *inputs: Tensor | float | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        result = super().__call__(*inputs)
        flat = [part for value in inputs for part in (value if isinstance(value, tuple | list) else (value,))]
        texts = written_arguments(_calling(sys._getframe(1)))
        written = texts if texts is not None and len(texts) == len(flat) else [None] * len(flat)
        known = [self._names.get(id(part)) for part in flat]
        self.labels.append(known)
        self.written.append([None if text is None or len(text) > LONGEST else text for text in written])
        scalars = [part if isinstance(part, Tensor) else self.weights.new_tensor(part) for part in flat]
        self.calls.append((scalars, list(result) if isinstance(result, tuple) else [result]))
        return result


def _calling(frame: FrameType) -> FrameType:
    """The frame that a call stands in, without the checks of types around functions."""
    while frame.f_back is not None and not _is_source(frame):
        frame = frame.f_back
    return frame


def _is_source(frame: FrameType) -> bool:
    generated = frame.f_code.co_filename.startswith("<@")
    return not generated and not str(frame.f_globals.get("__name__", "")).startswith("jaxtyping")


def _with_times(
    labels: list[str | None], written: list[str | None], inputs: Tensor, times: Tensor, mask: Tensor
) -> tuple[str, ...]:
    """Fill in the missing labels: what is proportional to time says so, the rest is as the call is written."""
    filled = []
    for index, label in enumerate(labels):
        known = label or written[index] or f"input {index + 1}"
        if label is None:
            wanted = mask & (times.abs() > 0)
            ratios = inputs[index, 0, :, 0][wanted] / times[wanted]
            if len(ratios) > 1 and bool(((ratios - ratios[0]).abs() <= 1e-9 * ratios[0].abs()).all()) and ratios[0] > 0:
                scale = f"{1 / float(ratios[0]):g}"
                known = "time" if scale == "1" else f"time / {scale}"
        filled.append(known)
    return tuple(filled)
