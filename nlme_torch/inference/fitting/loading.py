"""Fits from disk, checked against their checksums; a solver is not where the caller gives another one."""

import copy
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

import nlme_torch.solve
from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.absent_data import AbsentData
from nlme_torch.inference.fitting.result import Fit
from nlme_torch.inference.fitting.saved_files import (
    Entries,
    Number,
    Tensors,
    check_files,
    damaged,
    entry_checksum,
    read_json,
    read_table,
    read_tensors,
)
from nlme_torch.inference.fitting.saved_folder import settle
from nlme_torch.inference.fitting.saved_method import unpacked_method, unpacked_settings
from nlme_torch.inference.fitting.saved_uncertainty import unpacked_uncertainty
from nlme_torch.inference.fitting.writing import FORMAT
from nlme_torch.model.covariates.levels import restore_levels
from nlme_torch.model.declare.arguments import check_data
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import assign
from nlme_torch.model.density.network_scales import automatic_scales
from nlme_torch.model.density.normal_observations import normal_observations
from nlme_torch.settings import check_values
from nlme_torch.solve import Solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def load(path: str | Path, model: Model, data: "Dataset | None" = None, *, solver: Solver | None = None) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote.

    Args:
        path: The directory.
        model: A model of the same class and settings; its parameters are overwritten in a copy.
        data: The data the fit was made from. Without them the fit prints, holds its tables and effects, simulates
            (``fit.model``) and individualises other data; what needs them raises a FitError that says so.
        solver: Another solver than the one of the fit; None takes the same.

    Returns:
        The fit, with identical parameters, effects and predictions.

    Raises:
        FitError: There is no fit, it cannot be read, the model does not match, or the data are not those of the fit.

    Example:
        >>> import tempfile, nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.Pooled(steps=5), progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = nlme.load(fit.save(f"{folder}/run1"), model, data)
        >>> again.predictions.equals(fit.predictions)
        True
    """
    check_values("load", FitError, path=(path, str | os.PathLike))
    folder = Path(path)
    try:
        settle(folder)
        there = folder.is_dir() and any((folder / name).exists() for name in ("fit.json", "tensors.safetensors"))
    except OSError as error:
        raise FitError(
            f"{folder} cannot be looked into ({error.strerror or error}); name another folder, or ask for the right to "
            "read it."
        ) from error
    if not there:
        raise FitError(f"{folder} holds no fit (fit.json is missing).")
    record = Entries(folder, "fit.json", read_json(folder / "fit.json"))
    form = record.take("format", int)
    if form != FORMAT:
        written = record.values.get("versions")
        by = written.get("nlme_torch", "of its time") if isinstance(written, dict) else "of its time"
        raise FitError(f"{folder} has format {form}, this version reads format {FORMAT}; load it with nlme_torch {by}.")
    kind = _solver_kind(folder, record.part("solver")) if solver is None else type(solver)
    if "checksums" in record.values:  # fits saved by earlier versions have none
        _check(folder, record, with_solver=solver is None)
    tensors = read_tensors(folder / "tensors.safetensors")
    if isinstance(model, type):
        raise FitError(f"load: a model is needed and its class was given; write {model.__name__}().")
    if data is not None:
        check_data("load", data)
    if data is not None and record.take("data_hash", str) != data.hash:
        raise FitError(f"the data differ from those that {folder} was fitted to; load the original table.")
    fitted = _restore(folder, record, tensors, model)
    likelihood = _log_likelihood(folder, record.part("log_likelihood"), None if data is None else data.subjects)
    known: Any = data
    if data is None:
        ids = likelihood.subjects["id"].tolist()
        known = AbsentData(ids, likelihood.n_observations, record.take("data_hash", str), str(path))
    effects, subjects = fitted.n_effects, known.n_subjects
    shapes: dict[str, tuple[int | None, ...]] = {
        "modes": (effects, subjects),
        "precision": (effects, effects, subjects),
        "log_joint": (subjects,),
        "means": (effects, subjects),
        "covariances": (effects, effects, subjects),
        "draws": (effects, None, subjects),
    }
    found = Fit(
        model=fitted,
        data=known,
        method=unpacked_method(record),
        solver=solver or _solver(folder, kind, record.part("solver").part("settings")),
        seed=record.take("seed", int),
        trace=read_table(folder / "trace.csv"),
        status=_status(record),
        termination=record.take("termination", str),
        warnings=record.texts("warnings"),
        seconds=record.take("seconds", Number),
        effects=EffectEstimates(**{name: tensors.take(f"effects/{name}", shape) for name, shape in shapes.items()}),
        log_likelihood=likelihood,
        uncertainty=unpacked_uncertainty(record, tensors),
    )
    if found.log_likelihood.n_normal is None and data is not None:  # saved before it was counted
        counted = int(normal_observations(found.density).sum())
        found = dataclasses.replace(found, log_likelihood=dataclasses.replace(found.log_likelihood, n_normal=counted))
    return found


def _check(folder: Path, record: Entries, *, with_solver: bool) -> None:
    """Compare all files, and the parts of ``fit.json`` that are used, with their checksums."""
    sums = record.part("checksums")
    check_files(folder, sums.part("files"))
    parts = {"fit.json": {k: v for k, v in record.values.items() if k not in ("checksums", "solver")}}
    if with_solver:
        parts["solver"] = record.values["solver"]
    for name, content in parts.items():
        if sums.take(name, str) != entry_checksum(content):
            raise damaged(folder, f"fit.json is not as it was saved: the checksum of its {name} entries differs")


def _status(record: Entries) -> Status:
    if "status" not in record.values:  # fits saved by earlier versions have none
        return Status.COMPLETED
    name = record.take("status", str)
    if name not in Status.__members__:
        raise damaged(record.folder, f"fit.json: the status {name!r} is unknown")
    return Status[name]


def _log_likelihood(folder: Path, record: Entries, subjects: Sequence[Any] | None) -> LogLikelihood:
    table = read_table(folder / "likelihood.csv")
    missing = {"id", "log_likelihood", "standard_error", "effective_size", "k_hat"} - set(table.columns)
    if missing or (subjects is not None and len(table) != len(subjects)):
        raise damaged(folder, f"likelihood.csv has {len(table)} rows of {', '.join(table.columns)}")
    numbers = [name for name in table.columns if name != "id"]
    wrong = [name for name in numbers if not pd.api.types.is_numeric_dtype(table[name])]
    if wrong:
        raise damaged(folder, f"likelihood.csv: column {wrong[0]} holds something that is no number")
    if subjects is not None:
        table["id"] = list(subjects)
    return LogLikelihood(
        value=record.take("value", Number),
        standard_error=record.take("standard_error", Number),
        method=record.take("method", str),
        subjects=table,
        n_observations=record.take("n_observations", int),
        n_normal=record.take("n_normal", int) if "n_normal" in record.values else None,
        problem=record.take("problem", str) if "problem" in record.values else "",
        next_rule=record.take("next_rule", Number) if "next_rule" in record.values else math.nan,
        settings=unpacked_settings(record),
    )


def _restore(folder: Path, record: Entries, tensors: Tensors, model: Model) -> Model:
    """A copy of the model with the stored parameters."""
    kind = type(model).__name__
    fitted_kind = record.take("model", str)
    if fitted_kind != kind:
        raise FitError(f"{folder} was fitted with {fitted_kind}, not with {kind}; pass a model of that class.")
    model = copy.deepcopy(model)
    restore_levels(model, _levels(record))
    stored = {
        name.removeprefix("parameter/"): tensors.take(name, value.shape)
        for name, value in tensors.values.items()
        if name.startswith("parameter/")
    }
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if {name: tuple(value.shape) for name, value in stored.items()} != expected:
        different = sorted(stored.keys() ^ expected.keys()) or [
            n for n in expected if tuple(stored[n].shape) != expected[n]
        ]
        raise FitError(
            f"{folder} was fitted with other settings of {kind}: they differ in {', '.join(different[:3])}; pass "
            "the settings of "
            "that fit."
        )
    automatic = automatic_scales(model)
    for name, buffer in model.named_buffers():
        value = tensors.values.get(f"constant/{name}")
        if value is None or not (name in automatic or torch.equal(value, buffer.cpu())):
            raise FitError(
                f"{folder} was fitted with another fixed covariance or scale ({name}); pass the settings of that fit."
            )
    free = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    stored_free = list(record.texts("free"))
    if free != stored_free:
        different = sorted(set(free) ^ set(stored_free))
        raise FitError(
            f"{folder} was fitted with other parameters fixed ({', '.join(different)}); pass the settings of that fit."
        )
    fitted = copy.deepcopy(model)
    assign(fitted, {name: value[None] for name, value in stored.items()})
    for name, network in automatic_scales(fitted).items():
        constant = tensors.take(f"constant/{name}", fitted.get_buffer(name).shape)
        network.set_measured(name.rpartition(".")[2], constant)
    return fitted


def _levels(record: Entries) -> dict[str, Any] | None:
    """The levels of text covariates; None where an earlier version saved none."""
    if record.values.get("levels") is None:
        return None
    levels = record.part("levels")
    effects, covariates = levels.part("effects"), levels.part("covariates")
    for name in effects.values:
        effects.part(name).take("reference", str)
        effects.part(name).texts("levels")
    for name in covariates.values:
        covariates.texts(name)
    return levels.values


def _solver_kind(folder: Path, record: Entries) -> type[Any]:
    name = record.take("name", str)
    kind = getattr(nlme_torch.solve, {"Adaptive": "TorchDiffEq"}.get(name, name), None)  # its name in earlier versions
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "integrate")):
        raise FitError(f"{folder} was fitted with the solver {name}, which is not of this package; pass solver=.")
    return kind


def _solver(folder: Path, kind: type[Any], settings: Entries) -> Solver:
    try:
        return kind(**settings.values)
    except (NLMEError, TypeError) as error:
        raise damaged(folder, f"{settings.where} of {kind.__name__}: {error}".rstrip(".")) from error
