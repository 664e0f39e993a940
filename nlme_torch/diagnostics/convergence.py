"""The iterations of a fit as a tidy table."""

import pandas as pd

from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.scalars import structural_scalars, weight_scalars
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock


def convergence_table(fit: Fit) -> pd.DataFrame:
    """Return every estimated quantity at every iteration.

    Args:
        fit: A fit by an iterative method.

    Returns:
        Columns iteration, phase, kind (``structural``, ``omega``, ``weights``, ``criterion`` or
        ``acceptance``), group (the parameter itself, or the network that a weight or its variance belongs
        to), parameter and value (natural scale; variances for omega). Parameters that never moved, being
        fixed, are left out.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> table = nlme.diagnostics.convergence_table(fit)
        >>> sorted(table[table.kind == "structural"].parameter.unique())
        ['cl', 'ka', 'sigma', 'v']
    """
    check_fit("convergence_table", fit)
    trace = fit.trace
    kinds = _kinds(fit.model)
    tables = []
    for name in trace.columns:
        if name in ("iteration", "phase"):
            continue
        if name in kinds:
            kind, group = kinds[name]
            if trace[name].nunique() <= 1:
                continue
        elif name.startswith("acceptance_"):
            kind, group = "acceptance", "acceptance"
        else:
            kind, group = "criterion", name
        phase = trace.get("phase", "")
        columns = {
            "iteration": trace["iteration"],
            "phase": phase,
            "kind": kind,
            "group": group,
            "parameter": name,
        }
        tables.append(pd.DataFrame({**columns, "value": trace[name].astype(float)}).dropna(subset="value"))
    return pd.concat(tables, ignore_index=True)


def _kinds(model: Model) -> dict[str, tuple[str, str]]:
    """Say of every column of a trace what kind of parameter it is and what it belongs to."""
    values = parameter_values(model)
    kinds = {name: ("structural", name) for name in structural_scalars(model, values)}
    owners = [name for name, part in model.components.items() if isinstance(part, Network | RandomWeights)]
    for name in weight_scalars(model, values):
        kinds[name] = ("weights", next(owner for owner in owners if name.startswith(f"{owner}.")))
    for block in model.blocks:
        kinds.update({name: ("omega", group) for name, group in _variances(block).items()})
    return kinds


def _variances(block: RandomEffectBlock) -> dict[str, str]:
    """Names under which a block's variances and covariances stand in a trace, with their groups."""
    weights = block.kind == "weights"
    common = weights or (block.kind == "occasion" and not block.repeats)
    names = {f"omega_{block.name}": f"omega_{block.name}"} if common else {}
    labels = block.distinct_names
    for row, label in enumerate(labels):
        names[f"omega_{label}"] = f"omega_{block.name}" if weights else f"omega_{label}"
        for other in labels[:row]:
            names[f"omega_{other},{label}"] = f"omega_{other},{label}"
    return names
