"""Fits on disk: a directory of JSON, safetensors and CSV files, never pickle.

``fit.json`` holds settings, versions and hashes; ``tensors.safetensors`` parameters and effects; ``*.csv`` the tables
that a reader opens in a spreadsheet. A directory appears whole or not at all: it is written under a temporary name and
renamed.
"""

import copy
import dataclasses
import json
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyro
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import nlme_torch.solve
from nlme_torch.errors import FitError
from nlme_torch.inference.effects import EffectEstimates
from nlme_torch.inference.likelihood import LogLikelihood
from nlme_torch.inference.result import Fit
from nlme_torch.inference.saved_uncertainty import packed_uncertainty, unpacked_uncertainty
from nlme_torch.inference.status import Status
from nlme_torch.model.levels import packed_levels, restore_levels
from nlme_torch.model.model import Model
from nlme_torch.model.network_scales import automatic_scales
from nlme_torch.model.values import assign
from nlme_torch.solve import Solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

FORMAT = 1


def save(fit: Fit, path: Path, *, overwrite: bool) -> Path:
    """Write a fit; see :meth:`Fit.save`."""
    if path.exists():
        if not overwrite:
            raise FitError(f"{path} already exists; choose another name or pass overwrite=True.")
        if not (path / "fit.json").is_file():
            raise FitError(
                f"{path} is not a saved fit and is not overwritten; choose another name or remove it yourself."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        _write(fit, new)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    return path


def load(path: str | Path, model: Model, data: "Dataset", *, solver: Solver | None = None) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote.

    Args:
        path: The directory.
        model: A model of the same class and settings; its parameters are overwritten in a copy.
        data: The data the fit was made from.
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
    folder = Path(path)
    if not (folder / "fit.json").is_file():
        raise FitError(f"{folder} holds no fit (fit.json is missing).")
    try:
        record = json.loads((folder / "fit.json").read_text())
        tensors = load_file(folder / "tensors.safetensors")
        trace = _read_table(folder / "trace.csv")
        subjects = _read_table(folder / "likelihood.csv")
    except (OSError, ValueError, SafetensorError) as error:
        raise FitError(f"{folder} cannot be read ({error}); it is damaged, save the fit again.") from error
    if record.get("format") != FORMAT:
        raise FitError(
            f"{folder} has format {record.get('format')}, this version reads format {FORMAT}; load it with "
            f"nlme_torch {record.get('versions', {}).get('nlme_torch', 'of its time')}."
        )
    if record["data_hash"] != data.hash:
        raise FitError(f"the data differ from those that {folder} was fitted to; load the original table.")
    effects = EffectEstimates(**{name: tensors[f"effects/{name}"] for name in EffectEstimates.__dataclass_fields__})
    subjects["id"] = list(data.subjects)
    return Fit(
        model=_restore(folder, record, tensors, model),
        data=data,
        method=record["method"],
        solver=solver or _solver(folder, record["solver"]),
        seed=record["seed"],
        trace=trace,
        status=Status[record.get("status", Status.COMPLETED.name)],
        termination=record["termination"],
        warnings=tuple(record["warnings"]),
        seconds=record["seconds"],
        effects=effects,
        log_likelihood=LogLikelihood(subjects=subjects, **record["log_likelihood"]),
        uncertainty=unpacked_uncertainty(record.get("uncertainty"), tensors),
    )


def _restore(folder: Path, record: dict[str, Any], tensors: dict[str, Tensor], model: Model) -> Model:
    """A copy of the model with the stored parameters."""
    kind = type(model).__name__
    if record["model"] != kind:
        raise FitError(f"{folder} was fitted with {record['model']}, not with {kind}; pass a model of that class.")
    model = copy.deepcopy(model)
    restore_levels(model, record.get("levels"))
    stored = {
        name.removeprefix("parameter/"): value for name, value in tensors.items() if name.startswith("parameter/")
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
        value = tensors.get(f"constant/{name}")
        if value is None or not (name in automatic or torch.equal(value, buffer.cpu())):
            raise FitError(
                f"{folder} was fitted with another fixed covariance or scale ({name}); pass the settings of that fit."
            )
    free = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if free != record["free"]:
        different = sorted(set(free) ^ set(record["free"]))
        raise FitError(
            f"{folder} was fitted with other parameters fixed ({', '.join(different)}); pass the settings of that fit."
        )
    fitted = copy.deepcopy(model)
    assign(fitted, {name: value[None] for name, value in stored.items()})
    for name, network in automatic_scales(fitted).items():
        network.set_measured(name.rpartition(".")[2], tensors[f"constant/{name}"])
    return fitted


def _solver(folder: Path, record: dict[str, Any]) -> Solver:
    kind = getattr(nlme_torch.solve, record["name"], None)
    if kind is None:
        raise FitError(
            f"{folder} was fitted with the solver {record['name']}, which is not of this package; pass solver=."
        )
    return kind(**record["settings"])


def _write(fit: Fit, folder: Path) -> None:
    tensors = {
        f"parameter/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in fit.model.named_parameters()
    }
    for name in EffectEstimates.__dataclass_fields__:
        tensors[f"effects/{name}"] = (
            getattr(fit.effects, name).detach().cpu().clone(memory_format=torch.contiguous_format)
        )
    tensors |= {
        f"constant/{name}": value.cpu().clone(memory_format=torch.contiguous_format)
        for name, value in fit.model.named_buffers()
    }
    uncertainty, matrices = packed_uncertainty(fit.uncertainty)
    save_file(tensors | matrices, folder / "tensors.safetensors")
    likelihood = fit.log_likelihood
    record = {
        "format": FORMAT,
        "model": type(fit.model).__name__,
        "method": fit.method,
        "free": [name for name, parameter in fit.model.named_parameters() if parameter.requires_grad],
        "solver": {"name": type(fit.solver).__name__, "settings": _settings(fit.solver)},
        "seed": fit.seed,
        "status": fit.status.name,
        "termination": fit.termination,
        "warnings": list(fit.warnings),
        "seconds": fit.seconds,
        "n_parameters": fit.n_parameters,
        "aic": fit.aic,
        "bic": fit.bic,
        "levels": packed_levels(fit.model),
        "log_likelihood": {
            "value": likelihood.value,
            "standard_error": likelihood.standard_error,
            "method": likelihood.method,
            "n_observations": likelihood.n_observations,
            "n_normal": likelihood.n_normal,
            "problem": likelihood.problem,
        },
        "uncertainty": uncertainty,
        "data_hash": fit.data.hash,
        "versions": {
            "nlme_torch": _own_version(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "pyro": pyro.__version__,
        },
    }
    (folder / "fit.json").write_text(json.dumps(record, indent=1))
    fit.parameters.to_csv(folder / "parameters.csv", index_label="parameter")
    fit.omega.to_csv(folder / "omega.csv", index_label="effect")
    if fit.uncertainty is not None:
        fit.uncertainty.table.to_csv(folder / "standard_errors.csv", index_label="parameter")
    fit.eta.to_csv(folder / "eta.csv")
    fit.predictions.to_csv(folder / "predictions.csv", index=False)
    fit.trace.to_csv(folder / "trace.csv", index=False)
    likelihood.subjects.to_csv(folder / "likelihood.csv", index=False)


def _read_table(path: Path) -> pd.DataFrame:
    """A table whose numbers are bit for bit what was written, whatever the version of pandas."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.apply(_numbers)


def _numbers(column: pd.Series) -> pd.Series:
    for number in (int, float):
        try:
            return column.map(lambda cell, number=number: number(cell or "nan"))
        except ValueError:
            continue
    return column


def _own_version() -> str:
    try:
        return version("nlme_torch")
    except PackageNotFoundError:  # imported from its source, without having been installed
        return "not installed"


def _settings(solver: Solver) -> dict[str, Any]:
    return dataclasses.asdict(solver) if dataclasses.is_dataclass(solver) and not isinstance(solver, type) else {}
