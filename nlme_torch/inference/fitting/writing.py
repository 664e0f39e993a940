"""A fit into a directory of JSON, safetensors and CSV files, never pickle.

``fit.json`` holds settings, versions and hashes; ``tensors.safetensors`` parameters and effects; ``*.csv`` the tables
that a reader opens in a spreadsheet. A directory appears whole or not at all, and ``fit.json`` holds a checksum of
every file and of itself, so that damage is an error and never another fit.
"""

import dataclasses
import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyro
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.fitting.record import FitRecord
from nlme_torch.inference.fitting.saved_files import entry_checksum, file_checksums
from nlme_torch.inference.fitting.saved_folder import replacement, settle
from nlme_torch.inference.fitting.saved_method import packed_method
from nlme_torch.inference.fitting.saved_uncertainty import packed_uncertainty
from nlme_torch.model.covariates.levels import packed_levels
from nlme_torch.solve import Solver

FORMAT = 1
"""Of the directory; raised where an older version could not read it."""


def save(fit: FitRecord, path: Path, *, overwrite: bool) -> Path:
    """Write a fit; see :meth:`Fit.save`."""
    try:
        settle(path)
        if path.exists():
            if not overwrite:
                raise FitError(f"{path} already exists; choose another name or pass overwrite=True.")
            if not (path / "fit.json").is_file():
                raise FitError(
                    f"{path} is not a saved fit and is not overwritten; choose another name or remove it yourself."
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacement(path) as folder:
            _write(fit, folder)
    except (OSError, SafetensorError) as error:  # rights, a full disk, a file where a folder should be
        reason = getattr(error, "strerror", None) or error
        raise FitError(
            f"the fit cannot be saved as {path} ({reason}); choose a folder that you may write to, on a disk with "
            "room. The fit itself is not lost."
        ) from error
    return path


def _write(fit: FitRecord, folder: Path) -> None:
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
    record: dict[str, Any] = {
        "format": FORMAT,
        "model": type(fit.model).__name__,
        "method": str(fit.method),
        "method_settings": packed_method(fit.method),
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
            "next_rule": likelihood.next_rule,
            "settings": packed_method(likelihood.settings),
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
    fit.parameters.to_csv(folder / "parameters.csv", index_label="parameter")
    fit.omega.to_csv(folder / "omega.csv", index_label="effect")
    if fit.uncertainty is not None:
        fit.uncertainty.table.to_csv(folder / "standard_errors.csv", index_label="parameter")
    fit.eta.to_csv(folder / "eta.csv")
    fit.predictions.to_csv(folder / "predictions.csv", index=False)
    fit.trace.to_csv(folder / "trace.csv", index=False)
    likelihood.subjects.to_csv(folder / "likelihood.csv", index=False)
    record = json.loads(json.dumps(record))  # as it will be read
    record["checksums"] = {
        "files": file_checksums(folder),
        "fit.json": entry_checksum({k: v for k, v in record.items() if k != "solver"}),
        "solver": entry_checksum(record["solver"]),
    }
    (folder / "fit.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    shutil.copymode(folder / "fit.json", folder / "tensors.safetensors")  # safetensors writes for the user alone


def _own_version() -> str:
    try:
        return version("nlme_torch")
    except PackageNotFoundError:  # imported from its source, without having been installed
        return "not installed"


def _settings(solver: Solver) -> dict[str, Any]:
    return dataclasses.asdict(solver) if dataclasses.is_dataclass(solver) and not isinstance(solver, type) else {}
