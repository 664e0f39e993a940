"""$PRIOR NWPRI: normal priors of THETA."""

import re

import numpy as np

from nlme_torch.nonmem.control_stream import ControlStream
from nlme_torch.nonmem.method import Estimation
from nlme_torch.nonmem.values import Values, read_blocks, read_thetas

_OTHERS = ("OMEGAP", "OMEGAPD", "SIGMAP", "SIGMAPD", "OLKJDF", "OVARF", "SLKJDF", "SVARF", "TTDF")


def read_priors(
    stream: ControlStream, values: Values, estimation: Estimation, notes: list[str]
) -> tuple[Values, dict[int, tuple[float, float]]]:
    """Read priors.

    Args:
        stream: The stream.
        values: What $THETA and $OMEGA give, priors in the old style among them.
        estimation: The method, which may take no priors (NOPRIOR=1).
        notes: Receives what a reader should know.

    Returns:
        The values without priors, and number of a THETA to mean and standard deviation.

    Raises:
        ModelError: A prior that is not normal and independent, one of OMEGA or SIGMA among them.
    """
    record = next(stream.named("PRIOR"), None)
    if record is None:
        for other in stream.named("THETAP", "THETAPV", *_OTHERS):
            stream.refuse(other.line, f"${other.name} without $PRIOR NWPRI")
        return values, {}
    text = record.text.upper()
    if re.search(r"\bTNPRI\b", text) or not re.search(r"\bNWPRI\b", text):
        stream.refuse(record.line, "only $PRIOR NWPRI can be converted")
    counts = {name: int(number) for name, number in re.findall(r"\b(N[A-Z]+)\s*=\s*(\d+)", text)}
    others = [other.line for other in stream.named(*_OTHERS)]
    if others or counts.get("NETP") or counts.get("NEPP"):
        if estimation.priors and not estimation.bayesian:
            line = others[0] if others else record.line
            stream.refuse(line, "priors of OMEGA and SIGMA (inverse Wishart) do not exist here; take them out")
        if estimation.priors:
            notes.append("priors of OMEGA and SIGMA (inverse Wishart) do not exist here and are left out.")
    means = [theta.value for theta in read_thetas(stream, "THETAP")]
    blocks = read_blocks(stream, "THETAPV")
    if not means:
        model, prior = counts.get("NTHETA", 0), counts.get("NTHP", 0)
        effects = counts.get("NETA", 0)
        if not model or len(values.thetas) < model + prior:
            stream.refuse(record.line, "NWPRI needs $THETAP and $THETAPV, or NTHETA, NETA and NTHP")
        means = [theta.value for theta in values.thetas[model : model + prior]]
        blocks = tuple(block for block in values.omegas if block.first > effects)
        values = Values(
            values.thetas[:model], tuple(b for b in values.omegas if b.first <= effects), values.sigmas
        )  # fmt: skip
    if not estimation.priors:
        notes.append("$PRIOR is left out, as NOPRIOR=1 of $ESTIMATION has it.")
        return values, {}
    variances: list[float] = []
    for block in blocks:
        if np.any(block.matrix - np.diag(np.diag(block.matrix))):
            stream.refuse(record.line, "correlated priors of THETA do not exist here")
        variances += np.diag(block.matrix).tolist()
    if len(variances) < len(means) or len(means) > len(values.thetas):
        stream.refuse(record.line, f"{len(means)} means of priors, but {len(variances)} variances")
    return values, {
        place: (mean, variance**0.5)
        for place, (mean, variance) in enumerate(zip(means, variances, strict=False), 1)
        if variance > 0
    }
