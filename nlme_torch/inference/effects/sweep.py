"""One iteration of the Markov kernels as one compiled call, for models whose likelihood is compiled."""

import ctypes
import functools
import logging
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.effects.moves import TAILS, ConditionalModes, Moves, PhiMoments
from nlme_torch.inference.mcmc.hamiltonian import HMC
from nlme_torch.inference.mcmc.kernels import BlockRandomWalk, RandomWalk, Tuning
from nlme_torch.model.compiled.column_likelihood import ColumnLikelihood, CompiledLikelihood
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.density.density import LOG_2PI, Conditional
from nlme_torch.solve.kernel.build import BuildError, build

_log = logging.getLogger(__name__)

KERNELS = ("prior", "laplace", "component", "block", "hamiltonian")

_LONG, _DOUBLE, _POINTER = ctypes.c_long, ctypes.c_double, ctypes.c_void_p


class _Adaptation(ctypes.Structure):
    _fields_ = [("target", _DOUBLE), ("gain", _DOUBLE), ("floor", _DOUBLE), ("count", _LONG)]


class _Sweep(ctypes.Structure):
    _fields_ = [
        *((name, _LONG) for name in ("effects", "columns", "starts", "subjects", "threads")),
        ("key", ctypes.c_uint64),
        *((name, _POINTER) for name in ("names", "log_likelihood", "gradient")),
        *((name, _POINTER) for name in ("data", "reach", "factor", "inverse", "constant")),
        ("repeats", _LONG * len(KERNELS)),
        ("centre", _POINTER), ("spread", _POINTER), ("degrees", _DOUBLE), ("deviations", _POINTER), ("group", _LONG),
        ("shape", _POINTER), ("leapfrogs", _LONG), ("jitter", _DOUBLE),
        *((name, _POINTER) for name in ("component", "block", "hamiltonian")),
        *((name, _Adaptation) for name in ("of_component", "of_block", "of_hamiltonian")),
        ("position", _POINTER), ("value", _POINTER),
        ("acceptance", _DOUBLE * len(KERNELS)),
    ]  # fmt: skip


class Swept(NamedTuple):
    """Where the chains are after one iteration.

    Attributes:
        effects: ``(effect, chain, start * subject)``.
        value: Log joint density, ``(chain, start * subject)``.
        tunings: Adapted scales of the random walks.
        acceptance: Mean acceptance of each kernel that ran.
    """

    effects: Float[Tensor, "effect chain row"]
    value: Float[Tensor, "chain row"]
    tunings: dict[str, Any]
    acceptance: dict[str, float]


def sweep(
    likelihood: ColumnLikelihood,
    conditional: Conditional,
    effects: Float[Tensor, "effect chain row"],
    moves: Moves,
    moments: PhiMoments,
    modes: ConditionalModes | None,
    tunings: Mapping[str, Any],
    generator: torch.Generator,
) -> Swept:
    """Run each Markov kernel its number of times, by compiled code.

    The kernels are those of :func:`~nlme_torch.inference.effects.moves.build_cycle`. Without modes the centre and the
    spread of the independent Student-t proposals are the running moments of each subject's phi instead of Laplace's:
    they were accepted as often (0.86 against 0.87 on theophylline, 0.89 against 0.89 on phenobarbital) without any
    search. Random walks must run beside them: alone, proposals made from their own draws would shrink. What a chain
    draws is a function of one number from the generator, its subject's name and its own number: neither the order of
    the subjects nor threads change it.

    Args:
        likelihood: The compiled likelihood at these parameters.
        conditional: The densities at these parameters.
        effects: Where the chains are.
        moves: How often each kernel runs; trajectories need a compiled gradient.
        moments: Running conditional moments of phi, which shape the proposals.
        modes: Laplace's approximation of the conditional distributions; None takes the moments instead.
        tunings: Adapted scales, none at first.
        generator: Source of the number by which this iteration's random numbers are told from others.
    """
    count, _, rows = effects.shape
    starts, subjects = conditional.starts, conditional.density.batch.n_subjects
    position = effects.reshape(count, -1).clone().contiguous()
    value = torch.empty(position.shape[1], dtype=torch.float64)
    factor, inverse, constant = _prior(conditional)
    scales = {
        name: tunings.get(name, first)
        for name, first in (
            ("component", Tuning(effects.new_zeros(count, rows), 0)),
            ("block", Tuning(effects.new_full((1, rows), 2.38 / count**0.5).log(), 0)),
            ("hamiltonian", Tuning(effects.new_full((1, rows), count**-0.25).log(), 0)),
        )
    }
    arrays: dict[str, Tensor] = {
        "names": _names(conditional.density.batch.subjects),
        "reach": _reach(conditional),
        "factor": factor,
        "inverse": inverse,
        "constant": constant,
        "deviations": _deviations(moments),
        "shape": moments.factor(),
        "component": scales["component"].log_scale,
        "block": scales["block"].log_scale,
        "hamiltonian": scales["hamiltonian"].log_scale,
        "position": position,
        "value": value,
    }
    centre, spread = (moments.mean, arrays["shape"]) if modes is None else (modes.mode, modes.factor)
    arrays |= {"centre": (centre - conditional.mean).flatten(-2), "spread": spread}
    arrays = {name: array.contiguous() for name, array in arrays.items()}
    for name in scales:
        arrays[name] = arrays[name].clone()
    arrays["position"], arrays["value"] = position, value
    likelihood.data.columns = position.shape[1]
    library = likelihood.gradient_library() if moves.hamiltonian else None
    trajectory = HMC(leapfrogs=moves.leapfrogs)
    problem = _Sweep(
        effects=count,
        columns=position.shape[1],
        starts=starts,
        subjects=subjects,
        threads=torch.get_num_threads(),
        key=int(torch.randint(2**63 - 1, (), generator=generator)),
        log_likelihood=likelihood.function.value,
        gradient=None if library is None else ctypes.cast(library.gradient, ctypes.c_void_p).value,
        data=ctypes.addressof(likelihood.data),
        repeats=(_LONG * len(KERNELS))(*(getattr(moves, name) for name in KERNELS)),
        degrees=TAILS,
        group=max(moves.group, 1),
        of_component=_adaptation(RandomWalk(), scales["component"]),
        of_block=_adaptation(BlockRandomWalk(), scales["block"]),
        of_hamiltonian=_adaptation(trajectory, scales["hamiltonian"]),
        leapfrogs=trajectory.leapfrogs,
        jitter=trajectory.jitter,
        **{name: array.data_ptr() for name, array in arrays.items()},
    )
    driver = _library()
    assert driver is not None
    driver.sweep(ctypes.byref(problem))
    moved = {
        "component": Tuning(arrays["component"], problem.of_component.count),
        "block": Tuning(arrays["block"], problem.of_block.count),
        "hamiltonian": Tuning(arrays["hamiltonian"], problem.of_hamiltonian.count),
    }
    ran = {name: rate for name, rate in zip(KERNELS, problem.acceptance, strict=True) if getattr(moves, name)}
    return Swept(
        position.reshape(effects.shape),
        value.reshape(effects.shape[1:]),
        {name: tuning for name, tuning in moved.items() if getattr(moves, name)},
        ran,
    )


def compiled_for(conditional: Conditional, moves: Moves) -> CompiledLikelihood | None:
    """Return the compiled likelihood, if all that some moves need of it is compiled.

    Args:
        conditional: The densities at some parameters.
        moves: How often each kernel runs.
    """
    compiled = compiled_likelihood(conditional)
    if compiled is None or _library() is None or (moves.hamiltonian and compiled.gradient is None):
        return None
    return compiled


def _adaptation(kernel: RandomWalk | BlockRandomWalk | HMC, tuning: Tuning) -> _Adaptation:
    return _Adaptation(kernel.target_acceptance, kernel.gain, kernel.gain_floor, tuning.count)


def _prior(conditional: Conditional) -> tuple[Tensor, Tensor, Tensor]:
    """Factor of Omega and its inverse, ``(effect, effect, start)``, and the log density at 0, ``(start,)``."""
    count = conditional.density.model.n_effects
    identity = torch.eye(count, dtype=conditional.mean.dtype)
    # columns of the factor are what it makes of unit vectors
    columns = identity[:, :, None, None].expand(-1, -1, conditional.starts, 1)
    factor = conditional.colour(columns)[..., 0].permute(2, 0, 1)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    constant = -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * count * LOG_2PI
    return factor.permute(1, 2, 0), inverse.permute(1, 2, 0), constant


def _reach(conditional: Conditional) -> Tensor:
    """The first effect that each one may be correlated with, ``(effect,)``."""
    reach = torch.arange(conditional.density.model.n_effects)
    for block in conditional.density.model.blocks:
        if block.covariance is not None and not block.covariance.diagonal:
            reach[block.slice] = block.slice.start
    return reach


def _deviations(moments: PhiMoments) -> Tensor:
    """Conditional standard deviations of every effect, ``(effect, start * subject)``."""
    variances = moments.covariance.diagonal(dim1=0, dim2=1).permute(2, 0, 1)
    return variances.flatten(-2).sqrt().clamp_min(1e-10)


@functools.lru_cache(maxsize=16)
def _names(subjects: tuple[Any, ...]) -> Tensor:
    """Numbers of 32 bits by which subjects' random numbers are told apart, whatever their order."""
    taken: set[int] = set()
    found = []
    for subject in subjects:
        number = zlib.crc32(repr(subject).encode())
        while number in taken:  # two names with one number, or a subject that stands twice in a resampled data set
            number = zlib.crc32(number.to_bytes(4, "little"))
        taken.add(number)
        found.append(number)
    return torch.tensor(found, dtype=torch.int64)


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return build('#include "sweep.h"\n')
    except BuildError as error:
        _log.warning("no compiled Markov chains, slower tensor operations instead: %s", error)
        return None
