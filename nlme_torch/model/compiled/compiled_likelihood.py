"""Which likelihoods are compiled: once for each density, and only if they are what the tensor operations give."""

import logging
import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.model.compiled.apart import refuse_coupled
from nlme_torch.model.compiled.column_likelihood import CompiledLikelihood
from nlme_torch.model.compiled.program import density_program, trace_density
from nlme_torch.model.compiled.readings import DataReadings
from nlme_torch.model.compiled.source import likelihood_source
from nlme_torch.model.compiled.stops import MovedDoses, common_stops, moved_doses
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.trajectory.system import DifferentialSystem
from nlme_torch.model.trajectory.vector_field import VectorFields
from nlme_torch.solve.kernel.build import BuildError, build, compiler
from nlme_torch.solve.kernel.find import find_kernel
from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.problem.problem import build_problem

TOLERANCE = 1e-9
"""Largest relative difference from the tensor operations; a tenth of the last digit that a user sees printed."""
_log = logging.getLogger(__name__)

# what was compiled for a density, with the fields by which it knows what the model's Python code read at that time
_kept: "WeakKeyDictionary[Joined, dict[bool, tuple[VectorFields, CompiledLikelihood | None]]]" = WeakKeyDictionary()


def compiled_likelihood(conditional: Conditional) -> CompiledLikelihood | None:
    """Compile the likelihood of a density, once, if it can be.

    The compiled program is compared with the tensor operations at draws of the effects before it is given out, so that
    a model whose records or subjects feel each other is never compiled wrongly.

    Args:
        conditional: The density at parameters from where it can be evaluated.

    Returns:
        The compiled likelihood; None without a compiler, by a solver with ``compile=False``, off the CPU, for models
        that cannot be written out for one record of one subject (the log says why), and at parameters where no draw of
        the effects can be evaluated.
    """
    density, several = conditional.density, conditional.starts > 1
    kept = _kept.setdefault(density, {})
    if several not in kept or kept[several][0] is not density.fields:
        if not _can_be_compared(conditional):
            return None  # at other parameters it may be
        kept[several] = density.fields, _compiled(conditional)
    return kept[several][1]


def log_likelihood(conditional: Conditional, eta: Float[Tensor, "effect chain start subject"]) -> Tensor:
    """Return log p(y_i | eta_i) without a graph, by compiled code where that is possible.

    Args:
        conditional: The density at some parameters.
        eta: ``(effect, chain, start, subject)``.

    Returns:
        ``(chain, start, subject)``, -inf where the model cannot be evaluated.
    """
    compiled = compiled_likelihood(conditional)
    if compiled is None:
        with torch.no_grad():
            return conditional.log_likelihood(eta)
    return compiled.at(conditional)(eta.flatten(-2)).reshape(eta.shape[1:])


def _compiled(conditional: Conditional) -> CompiledLikelihood | None:
    density = conditional.density
    if compiler() is None or density._times.device.type != "cpu" or density._times.dtype is not torch.float64:
        return None
    if not getattr(density.solver, "compile", True):  # a solver that is not to be compiled speaks for the whole density
        return None
    try:
        with torch.no_grad():
            found = _make(conditional)
            if _agrees(found, conditional):
                return found
            reason = "compiled, it differs from the tensor operations"
    except (NotScalarError, BuildError) as error:
        reason = str(error)
    _log.info("the likelihood of %s is not compiled as a whole: %s", type(density.model).__name__, reason)
    return None


def _make(conditional: Conditional) -> CompiledLikelihood:
    density, model = conditional.density, conditional.density.model
    readings, kernel, stops = DataReadings.of(density), None, None
    if model.states:
        stops = common_stops(conditional) or moved_doses(conditional)
        kernel = None if model.has_compartments else _kernel(conditional)
    infusions = stops is not None and stops.infusions
    moved = isinstance(stops, MovedDoses)
    program = density_program(trace_density(conditional, infusions, moved=moved))
    refuse_coupled(conditional, infusions, moved)
    layout = None if kernel is None else kernel.layout
    if layout is not None and list(map(math.prod, layout.shapes)) != list(map(len, program.parameters)):
        raise NotScalarError("the equations take their parameters in another shape")
    text = likelihood_source(program, layout)
    return CompiledLikelihood(program, text, build(text), kernel, readings, stops)


def _kernel(conditional: Conditional) -> Kernel:
    density = conditional.density
    solver = density.solver
    if not isinstance(solver, PerSubjectSolver) or not solver.compile:
        raise NotScalarError("its solver is not a compiled one with steps of each subject's own")
    # two chains, so that what is one subject's own is told from what all share
    eta = _draws(conditional, 2, 0.1)
    trajectory = conditional.trajectory(conditional.individual(eta), eta)
    system, line = trajectory.system, trajectory.timeline
    assert isinstance(system, DifferentialSystem)
    problem = build_problem(system.field, trajectory.initial, line.times, system.parameters, line.events)
    kernel = find_kernel(problem, solver.method)
    if kernel is None:
        raise NotScalarError("its equations are not compiled")
    return kernel


def _draws(conditional: Conditional, chains: int, scale: float) -> Tensor:
    generator = torch.Generator(conditional.mean.device).manual_seed(chains)
    return scale * conditional.sample(chains, generator)


def _can_be_compared(conditional: Conditional) -> bool:
    """Whether any draw of the effects can be evaluated: where none can, right and wrong programs look the same."""
    with torch.no_grad():
        return bool(torch.isfinite(conditional.log_likelihood(_draws(conditional, 3, 0.3))).any())


def _agrees(found: CompiledLikelihood, conditional: Conditional) -> bool:
    """Whether it is what the tensor operations give, at draws of the effects of three sizes."""
    likelihood = found.at(conditional)
    for scale in (0.0, 0.3, 1.0):
        eta = _draws(conditional, 3, scale)
        expected = conditional.log_likelihood(eta)
        ours = likelihood(eta.flatten(-2)).unflatten(-1, eta.shape[-2:])
        finite = torch.isfinite(expected)
        difference = (ours - expected).abs() / (1.0 + expected.abs())
        if not torch.equal(torch.isfinite(ours), finite) or bool((difference[finite] > TOLERANCE).any()):
            return False
    return True
