"""$ESTIMATION: the method of nlme_torch that does the same."""

import re
from typing import NamedTuple

from nlme_torch.nonmem.control_stream import ControlStream, Record

_KINDS = {"0": "FO", "ZERO": "FO", "FO": "FO", "1": "COND", "COND": "COND", "CONDITIONAL": "COND", "FOCE": "COND",
          "FOCEI": "COND", "LAPLACE": "LAPLACE", "ITS": "ITS", "IMP": "IMP", "IMPMAP": "IMP", "SAEM": "SAEM",
          "DIRECT": "IMP", "BAYES": "BAYES", "NUTS": "BAYES", "HYBRID": "COND", "FAST": "COND"}  # fmt: skip


class Estimation(NamedTuple):
    """The method as Python code, whether it takes priors, and whether NONMEM's own is a Bayesian one."""

    method: str
    priors: bool
    bayesian: bool


class _Step(NamedTuple):
    """One $ESTIMATION, with what it inherits from those before."""

    kind: str
    interaction: bool
    laplace: bool
    evaluates: bool
    priors: bool


def read_method(stream: ControlStream, notes: list[str]) -> Estimation:
    """Return the method: of several the last one that estimates, and of those one that is not Bayesian if there is one.

    Args:
        stream: The stream.
        notes: Receives what a reader should know.
    """
    steps = _steps(stream)
    if not steps:
        notes.append("There is no $ESTIMATION; FOCEI() is taken.")
        return Estimation("nlme.FOCEI()", True, False)
    estimating = [step for step in steps if not step.evaluates] or steps
    step = ([each for each in estimating if each.kind != "BAYES"] or estimating)[-1]
    chosen = _method(stream, step, notes)
    if len(steps) > 1:
        notes.append(f"of {len(steps)} $ESTIMATION records, {chosen} stands for the one with METHOD {step.kind}.")
    return Estimation(chosen, step.priors, step.kind == "BAYES")


def _steps(stream: ControlStream) -> list[_Step]:
    """All $ESTIMATION records; options hold for those that follow, too."""
    steps: list[_Step] = []
    kind, interaction, laplace, priors = "FO", False, False, True
    for record in stream.named("ESTIMATION"):
        text = _options(record)
        kind = _kind(stream, record, text) or kind
        interaction = _flag(text, r"\bINTER(ACTION)?\b", r"\bNOINTER(ACTION)?\b", interaction)
        laplace = _flag(text, r"\bLAPL(ACE|ACIAN)?\b", r"\bNOLAPL\w*\b", laplace)
        priors = _flag(text, r"\bNOPRIOR\s*=\s*0", r"\bNOPRIOR\s*=\s*1", priors)
        steps.append(_Step(kind, interaction, laplace, bool(re.search(r"\bEONLY\s*=\s*1\b", text)), priors))
    return steps


def _method(stream: ControlStream, step: _Step, notes: list[str]) -> str:
    if step.kind == "FO":
        if step.interaction:
            notes.append("METHOD=0 INTER is taken as FO with the variance at typical parameters.")
        return "nlme.FO()"
    if step.kind == "LAPLACE" or (step.kind == "COND" and step.laplace):
        if not step.interaction and not likelihood_flag(stream):
            notes.append(
                "LAPLACE without INTERACTION: nlme.Laplace always takes interaction between ETA and EPS into "
                "account, which differs where the residual variance depends on ETA."
            )
        return "nlme.Laplace()"
    if step.kind == "COND":
        return "nlme.FOCEI()" if step.interaction else "nlme.FOCE()"
    if step.kind == "ITS":
        notes.append("METHOD=ITS has no counterpart; FOCEI() is the closest.")
        return "nlme.FOCEI()"
    if step.kind == "IMP":
        notes.append("METHOD=IMP: SAEM() maximises the same likelihood, and importance sampling evaluates it.")
    elif step.kind == "BAYES":
        notes.append("METHOD=BAYES has no counterpart; SAEM() gives the mode with the priors of THETA.")
    return "nlme.SAEM()"


def likelihood_flag(stream: ControlStream) -> int:
    """Return 1 where Y is a likelihood (LIKE), 2 where it is -2 log-likelihood, else 0."""
    for record in stream.named("ESTIMATION"):
        text = _options(record)
        if re.search(r"-2\s*L(OG)?L(IKE(LIHOOD)?)?\b", text):
            return 2
        if re.search(r"(?<![-\w])LIKE(LIHOOD)?\b", text):
            return 1
    return 0


def _options(record: Record) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", " ", record.text.upper().replace("&", " "))


def _kind(stream: ControlStream, record: Record, text: str) -> str | None:
    named = re.search(r"\bMETH(?:OD)?\s*=\s*([A-Z0-9]+)", text) or re.search(r"\bMETH(?:OD)?\s+([01]|COND\w*)\b", text)
    if named is None:
        return None
    word = named[1]
    kind = _KINDS.get(word) or next((k for w, k in _KINDS.items() if len(word) >= 4 and w.startswith(word)), None)
    if kind is None:
        stream.refuse(record.line, f"METHOD={word} of $ESTIMATION is not known")
    return kind


def _flag(text: str, yes: str, no: str, before: bool) -> bool:
    if re.search(no, text):
        return False
    return True if re.search(yes, text) else before
