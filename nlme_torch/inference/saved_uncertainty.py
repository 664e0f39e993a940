"""Standard errors on disk: a record for JSON and tensors for safetensors."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.inference.uncertainty import Uncertainty

MATRICES = ("hessian", "scores")


def packed_uncertainty(uncertainty: Uncertainty | None) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Return what goes into ``fit.json``, None without standard errors, and into the tensors."""
    if uncertainty is None:
        return None, {}
    record = {
        "method": uncertainty.method,
        "kind": uncertainty.kind,
        "level": uncertainty.level,
        "condition_number": uncertainty.condition_number,
        "warnings": list(uncertainty.warnings),
        "names": list(uncertainty.table.index),
        "columns": list(uncertainty.table.columns),
    }
    tensors = {name: getattr(uncertainty, name).detach().cpu() for name in MATRICES}
    tensors["table"] = torch.tensor(uncertainty.table.to_numpy(), dtype=torch.float64)
    tensors["covariance"] = torch.tensor(uncertainty.covariance.to_numpy(), dtype=torch.float64)
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return record, {f"uncertainty/{name}": tensor for name, tensor in plain.items()}


def unpacked_uncertainty(record: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Uncertainty | None:
    """Return the standard errors that were packed, None where there were none."""
    if record is None:
        return None
    names = record["names"]
    return Uncertainty(
        method=record["method"],
        kind=record["kind"],
        table=pd.DataFrame(tensors["uncertainty/table"].numpy(), index=names, columns=record["columns"]),
        covariance=pd.DataFrame(tensors["uncertainty/covariance"].numpy(), index=names, columns=names),
        hessian=tensors["uncertainty/hessian"],
        scores=tensors["uncertainty/scores"],
        level=record["level"],
        condition_number=record["condition_number"],
        warnings=tuple(record["warnings"]),
    )
