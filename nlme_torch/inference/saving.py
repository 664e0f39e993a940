"""Fits on disk: a directory of JSON, safetensors and CSV files, never pickle.

``fit.json`` holds settings, versions and hashes; ``tensors.safetensors`` parameters and effects; ``*.csv`` the tables that a reader
opens in a spreadsheet. A directory appears whole or not at all: it is written under a temporary name and renamed.
"""

import json
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyro
import torch
from safetensors.torch import load_file, save_file

from nlme_torch.errors import FitError
from nlme_torch.inference.effects import EffectEstimates
from nlme_torch.inference.likelihood import LogLikelihood
from nlme_torch.inference.result import Fit
from nlme_torch.model.model import Model
from nlme_torch.solve import Solver, Tsit5

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

FORMAT = 1


def save(fit: Fit, path: Path, *, overwrite: bool) -> Path:
    """Write a fit; see :meth:`Fit.save`."""
    if path.exists() and not overwrite:
        raise FitError(f"{path} already exists; choose another name or pass overwrite=True.")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(fit, staging)
        if path.exists():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return path


def load(path: str | Path, model: Model, data: "Dataset", *, solver: Solver | None = None) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote.

    Args:
        path: The directory.
        model: A model of the same class and settings; its parameters are overwritten in a copy.
        data: The data the fit was made from.
        solver: The solver the fit used; ``Tsit5()`` if None.

    Returns:
        The fit, with identical parameters, effects and predictions.

    Raises:
        FitError: There is no fit, the model does not match, or the data are not those of the fit.
    """
    import copy

    folder = Path(path)
    if not (folder / "fit.json").is_file():
        raise FitError(f"{folder} holds no fit (fit.json is missing).")
    record = json.loads((folder / "fit.json").read_text())
    tensors = load_file(folder / "tensors.safetensors")
    if record["data_hash"] != data.hash:
        raise FitError(f"the data differ from those that {folder} was fitted to; load the original table.")
    fitted = copy.deepcopy(model)
    stored = {name.removeprefix("parameter/"): value for name, value in tensors.items() if name.startswith("parameter/")}
    expected = {name: tuple(parameter.shape) for name, parameter in fitted.named_parameters()}
    if {name: tuple(value.shape) for name, value in stored.items()} != expected:
        raise FitError(
            f"{folder} was fitted with {record['model']}, whose parameters do not match those of {type(model).__name__}."
        )
    with torch.no_grad():
        for name, parameter in fitted.named_parameters():
            parameter.copy_(stored[name])
    effects = EffectEstimates(**{name: tensors[f"effects/{name}"] for name in EffectEstimates.__dataclass_fields__})
    subjects = pd.read_csv(folder / "likelihood.csv")
    subjects["id"] = list(data.subjects)
    return Fit(
        model=fitted,
        data=data,
        method=record["method"],
        solver=solver or Tsit5(),
        seed=record["seed"],
        trace=pd.read_csv(folder / "trace.csv"),
        termination=record["termination"],
        warnings=tuple(record["warnings"]),
        seconds=record["seconds"],
        effects=effects,
        log_likelihood=LogLikelihood(subjects=subjects, **record["log_likelihood"]),
    )


def _write(fit: Fit, folder: Path) -> None:
    tensors = {f"parameter/{name}": value.detach().cpu().contiguous() for name, value in fit.model.named_parameters()}
    for name in EffectEstimates.__dataclass_fields__:
        tensors[f"effects/{name}"] = getattr(fit.effects, name).detach().cpu().contiguous()
    save_file(tensors, folder / "tensors.safetensors")
    likelihood = fit.log_likelihood
    record = {
        "format": FORMAT,
        "model": type(fit.model).__name__,
        "method": fit.method,
        "solver": str(fit.solver),
        "seed": fit.seed,
        "termination": fit.termination,
        "warnings": list(fit.warnings),
        "seconds": fit.seconds,
        "n_parameters": fit.n_parameters,
        "aic": fit.aic,
        "bic": fit.bic,
        "log_likelihood": {
            "value": likelihood.value,
            "standard_error": likelihood.standard_error,
            "method": likelihood.method,
            "n_observations": likelihood.n_observations,
        },
        "data_hash": fit.data.hash,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__},
    }
    (folder / "fit.json").write_text(json.dumps(record, indent=1))
    fit.parameters.to_csv(folder / "parameters.csv", index_label="parameter")
    fit.omega.to_csv(folder / "omega.csv", index_label="effect")
    fit.eta.to_csv(folder / "eta.csv")
    fit.predictions.to_csv(folder / "predictions.csv", index=False)
    fit.trace.to_csv(folder / "trace.csv", index=False)
    likelihood.subjects.to_csv(folder / "likelihood.csv", index=False)
