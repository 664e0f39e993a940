"""$ESTIMATION: the method of nlme_torch that does the same."""

import re

from nlme_torch.nonmem.control_stream import ControlStream, Record

_KINDS = {"0": "FO", "ZERO": "FO", "FO": "FO", "1": "COND", "COND": "COND", "CONDITIONAL": "COND", "FOCE": "COND",
          "FOCEI": "COND", "LAPLACE": "LAPLACE", "ITS": "ITS", "IMP": "IMP", "IMPMAP": "IMP", "SAEM": "SAEM",
          "DIRECT": "IMP", "BAYES": "BAYES", "NUTS": "BAYES", "HYBRID": "COND", "FAST": "COND"}  # fmt: skip


def read_method(stream: ControlStream, notes: list[str]) -> str:
    """Return the method as Python code: of several the last one that estimates.

    Args:
        stream: The stream.
        notes: Receives what a reader should know.
    """
    chosen = "nlme.FOCEI()"
    found = False
    inherited: dict[str, bool] = {}
    for record in stream.named("ESTIMATION"):
        text = _options(record)
        kind = _kind(stream, record, text)
        interaction = _flag(text, r"\bINTER(ACTION)?\b", r"\bNOINTER(ACTION)?\b", inherited.get("inter", False))
        laplace = _flag(text, r"\bLAPL(ACE|ACIAN)?\b", r"\bNOLAPL\w*\b", inherited.get("laplace", False))
        inherited = {"inter": interaction, "laplace": laplace}
        if re.search(r"\bEONLY\s*=?\s*1\b", text) and found:
            continue
        found = True
        if kind == "FO":
            chosen = "nlme.FO()"
            if interaction:
                notes.append("METHOD=0 INTER is taken as FO with the variance at typical parameters.")
        elif laplace or kind == "LAPLACE":
            chosen = "nlme.Laplace()"
            if not interaction and not likelihood_flag(stream):
                notes.append(
                    "LAPLACE without INTERACTION: nlme.Laplace always takes interaction between ETA and EPS into "
                    "account, which differs where the residual variance depends on ETA."
                )
        elif kind == "COND":
            chosen = "nlme.FOCEI()" if interaction else "nlme.FOCE()"
        elif kind == "ITS":
            chosen = "nlme.FOCEI()"
            notes.append("METHOD=ITS has no counterpart; FOCEI() is the closest.")
        else:
            chosen = "nlme.SAEM()"
            if kind == "IMP":
                notes.append("METHOD=IMP: SAEM() maximises the same likelihood, and importance sampling evaluates it.")
            elif kind == "BAYES":
                notes.append("METHOD=BAYES has no counterpart; SAEM() gives the mode with the priors of THETA.")
    if not found:
        notes.append("There is no $ESTIMATION; FOCEI() is taken.")
    return chosen


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


def _kind(stream: ControlStream, record: Record, text: str) -> str:
    named = re.search(r"\bMETH(?:OD)?\s*=\s*([A-Z0-9]+)", text) or re.search(r"\bMETH(?:OD)?\s+([01]|COND\w*)\b", text)
    if named is None:
        return "FO"
    word = named[1]
    kind = _KINDS.get(word) or next((k for w, k in _KINDS.items() if len(word) >= 4 and w.startswith(word)), None)
    if kind is None:
        stream.refuse(record.line, f"METHOD={word} of $ESTIMATION is not known")
    return kind


def _flag(text: str, yes: str, no: str, before: bool) -> bool:
    if re.search(no, text):
        return False
    return True if re.search(yes, text) else before
