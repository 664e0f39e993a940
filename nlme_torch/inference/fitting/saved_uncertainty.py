"""Standard errors on disk: a record for JSON and tensors for safetensors."""

from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.inference.fitting.saved_files import Entries, Number, Tensors, damaged
from nlme_torch.inference.information.observed import Kind
from nlme_torch.inference.uncertainty.standard_errors import Uncertainty

COLUMNS = ("estimate", "se", "rse_percent", "lower", "upper")
"""Of the table of standard errors."""
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


def unpacked_uncertainty(record: Entries, tensors: Tensors) -> Uncertainty | None:
    """Return the standard errors that were packed, None where there were none.

    Raises:
        FitError: Something of them is missing or of the wrong kind.
    """
    if record.values.get("uncertainty") is None:
        return None
    stored = record.part("uncertainty")
    names, columns = list(stored.texts("names")), list(stored.texts("columns"))
    kind = stored.take("kind", str)
    if kind not in get_args(Kind):
        raise damaged(record.folder, f"fit.json: the kind of standard errors {kind!r} is unknown")
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise damaged(record.folder, f"fit.json: standard errors have no column {missing[0]!r}")
    table = tensors.take("uncertainty/table", (len(names), len(columns)))
    covariance = tensors.take("uncertainty/covariance", (len(names), len(names)))
    return Uncertainty(
        method=stored.take("method", str),
        kind=kind,
        table=pd.DataFrame(table.numpy(), index=names, columns=columns),
        covariance=pd.DataFrame(covariance.numpy(), index=names, columns=names),
        hessian=tensors.take("uncertainty/hessian", (None, None)),
        scores=tensors.take("uncertainty/scores", (None, None)),
        level=stored.take("level", Number),
        condition_number=stored.take("condition_number", Number),
        warnings=stored.texts("warnings"),
    )
