"""$PRIOR NWPRI: normal priors of THETA."""

import re

import numpy as np

from nlme_torch.nonmem.control_stream import ControlStream
from nlme_torch.nonmem.values import Values, read_blocks, read_thetas


def read_priors(stream: ControlStream, values: Values) -> tuple[Values, dict[int, tuple[float, float]]]:
    """Read priors.

    Args:
        stream: The stream.
        values: What $THETA and $OMEGA give, priors in the old style among them.

    Returns:
        The values without priors, and number of a THETA to mean and standard deviation.

    Raises:
        ModelError: A prior that is not normal and independent, one of OMEGA or SIGMA among them.
    """
    record = next(stream.named("PRIOR"), None)
    if record is None:
        for other in stream.named("THETAP", "THETAPV", "OMEGAP", "OMEGAPD", "SIGMAP", "SIGMAPD"):
            stream.refuse(other.line, f"${other.name} without $PRIOR NWPRI")
        return values, {}
    text = record.text.upper()
    if re.search(r"\bTNPRI\b", text) or not re.search(r"\bNWPRI\b", text):
        stream.refuse(record.line, "only $PRIOR NWPRI can be converted")
    counts = {name: int(number) for name, number in re.findall(r"\b(N[A-Z]+)\s*=\s*(\d+)", text)}
    for other in stream.named("OMEGAP", "OMEGAPD", "SIGMAP", "SIGMAPD"):
        stream.refuse(other.line, "priors of OMEGA and SIGMA (inverse Wishart) do not exist here; take them out")
    if counts.get("NETP") or counts.get("NEPP"):
        stream.refuse(record.line, "priors of OMEGA and SIGMA (NETP, NEPP) do not exist here; take them out")
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
