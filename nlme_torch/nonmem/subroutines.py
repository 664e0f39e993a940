"""$SUBROUTINES and $MODEL: compartments and what moves between them."""

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nlme_torch.nonmem.control_stream import ControlStream

CLOSED = {
    1: ("central",),
    2: ("depot", "central"),
    3: ("central", "peripheral"),
    4: ("depot", "central", "peripheral"),
    11: ("central", "peripheral1", "peripheral2"),
    12: ("depot", "central", "peripheral1", "peripheral2"),
}
"""ADVAN of a closed form to its compartments."""

LINEAR = (5, 7)
"""ADVAN of linear systems given by rate constants."""
EQUATIONS = (6, 8, 13, 14, 18)
"""ADVAN of differential equations; they differ in the solver."""
SATURABLE = 10
"""ADVAN of one compartment with Michaelis-Menten elimination."""


@dataclass(frozen=True)
class Structure:
    """The compartments of a model.

    Attributes:
        advan: Number of the routine; None for $PRED.
        trans: Number of the translation.
        states: Names of the compartments as attributes of ``y``.
        dosed: Number of the compartment of doses whose CMT is 0.
        observed: Number of the compartment that F is of where CMT is 0.
        line: Where $SUBROUTINES stands.
    """

    advan: int | None
    trans: int = 1
    states: tuple[str, ...] = ()
    dosed: int = 1
    observed: int = 1
    line: int = 1
    labels: Mapping[str, int] | None = None


def read_structure(stream: ControlStream) -> Structure:
    """Read $SUBROUTINES and $MODEL, or find that there are none because there is $PRED."""
    if stream.has("PRED"):
        return Structure(None)
    record = next(stream.named("SUBROUTINES"), None)
    if record is None:
        stream.refuse(1, "there is neither $PRED nor $SUBROUTINES")
    advan, trans = None, 1
    for line in (line for each in stream.named("SUBROUTINES") for line in each.lines):
        for word in re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", line.text.strip().upper())):
            value = word.split("=")[-1]
            if number := re.fullmatch(r"ADVAN(\d+)", value):
                advan = int(number[1])
            elif number := re.fullmatch(r"TRANS(\d+)", value):
                trans = int(number[1])
            elif word and not re.match(r"(TOL|ATOL|SSTOL|SSATOL|ETOL|SS)=?\d*|SSS?\d*$|.*=SS\d*$|TOL\d*$|\d+$", word):
                stream.refuse(line.number, f"{word} of $SUBROUTINES cannot be converted")
    if advan in CLOSED:
        states = CLOSED[advan]
        depot = states[0] == "depot"
        return Structure(advan, trans, states, 1, 2 if depot else 1, record.line)
    if advan == SATURABLE:
        return Structure(advan, trans, ("central",), 1, 1, record.line)
    if advan in (*LINEAR, *EQUATIONS):
        return _model(stream, advan, trans, record.line)
    what = f"ADVAN{advan} cannot be converted" if advan else "no ADVAN is named"
    stream.refuse(record.line, f"{what}; ADVAN1-8, 10-14 and 18 can")


def _model(stream: ControlStream, advan: int, trans: int, line: int) -> Structure:
    names: list[str] = []
    dosed = observed = None
    count = 0
    for record in stream.named("MODEL"):
        text = re.sub(r"\s*=\s*", "=", record.text.upper().replace("&", " "))
        for match in re.finditer(r"(COMP(?:ARTMENTS?)?=?\s*(?:\(([^)]*)\)|(\w+)))|(\S+)", text):
            if match[1]:
                words = re.split(r"[\s,]+", (match[2] if match[2] is not None else match[3]).strip().replace('"', ""))
                name = words[0].strip("'")
                options = words[1:]
                if name in ("DEFDOSE", "DEFDOS", "DEFOBS", "DEFOBSERVATION") and not options:
                    name, options = f"COMP{len(names) + 1}", [name]
                names.append(name)
                for option in options:
                    if option.startswith("DEFDOS"):
                        dosed = len(names)
                    elif option.startswith("DEFOBS"):
                        observed = len(names)
                    elif option in ("INITIALOFF", "EQUILIBRIUM", "EXCLUDE"):
                        stream.refuse(record.line, f"{option} of compartment {name} cannot be converted")
            elif number := re.fullmatch(r"(NCOMPS?|NCOMPARTMENTS|NEQUILIBRIUM|NPARAMS|NPARAMETERS)=(\d+)", match[4]):
                count = int(number[2]) if number[1].startswith("NCOMP") else count
            elif not re.match(r"LINK|AND|BY|TO", match[4]):
                stream.refuse(record.line, f"{match[4]} of $MODEL cannot be converted")
            else:
                stream.refuse(record.line, "LINK of $MODEL cannot be converted")
    names += [f"COMP{place}" for place in range(len(names) + 1, count + 1)]
    if not names:
        stream.refuse(line, f"ADVAN{advan} needs $MODEL, which names the compartments")
    dosed = dosed or next((place for place, name in enumerate(names, 1) if name == "DEPOT"), 1)
    observed = observed or next((place for place, name in enumerate(names, 1) if name == "CENTRAL"), 1)
    states: list[str] = []
    for place, name in enumerate(names, 1):
        state = re.sub(r"\W", "_", name.lower())
        state = f"a{place}" if not re.match(r"[a-z]", state) or re.fullmatch(r"comp\d+", state) else state
        state = f"{state}_" if keyword.iskeyword(state) else state
        states.append(state if state not in states else f"{state}{place}")
    labels = {name: place for place, name in enumerate(names, 1)}
    return Structure(advan, trans, tuple(states), dosed, observed, line, labels)


def closed_form_arguments(structure: Structure) -> tuple[str, dict[str, str]] | None:
    """Return the class of ``nlme.compartments`` and its arguments as abbreviated code; None for an unknown TRANS."""
    kind = {1: "One", 2: "One", 3: "Two", 4: "Two", 11: "Three", 12: "Three"}[structure.advan or 0]
    absorbed = structure.states[0] == "depot"
    first = 2 if absorbed else 1  # number of the central compartment
    given: dict[str, str] | None = None
    if kind == "One":
        given = {1: {"clearance": "K", "volume": "1"}, 2: {"clearance": "CL", "volume": "V"}}.get(structure.trans)
    elif kind == "Two":
        c, p = first, first + 1
        out, back = f"K{c}{p}", f"K{p}{c}"
        given = {
            1: _micro("K", [(out, back)]),
            3: {"clearance": "CL", "volume": "V", "intercompartmental_clearance": "Q", "peripheral_volume": "VSS-V"},
            4: {
                "clearance": "CL",
                "volume": f"V{c}",
                "intercompartmental_clearance": "Q",
                "peripheral_volume": f"V{p}",
            },
            5: _hybrid_two("(AOB*BETA+ALPHA)/(AOB+1)"),
            6: _hybrid_two(back),
        }.get(structure.trans)
    else:
        c = first
        given = {
            1: _micro("K", [(f"K{c}{c + 1}", f"K{c + 1}{c}"), (f"K{c}{c + 2}", f"K{c + 2}{c}")]),
            4: {"clearance": "CL", "volume": f"V{c}", "intercompartmental_clearance1": f"Q{c + 1}",
                "peripheral_volume1": f"V{c + 1}", "intercompartmental_clearance2": f"Q{c + 2}",
                "peripheral_volume2": f"V{c + 2}"},
        }.get(structure.trans)  # fmt: skip
    if given is None:
        return None
    return f"{kind}Compartment", given | ({"absorption": "KA"} if absorbed else {})


def _micro(elimination: str, exchange: list[tuple[str, str]]) -> dict[str, str]:
    """Arguments for rate constants: the central volume is 1."""
    given = {"clearance": elimination, "volume": "1"}
    for place, (out, back) in enumerate(exchange, 1):
        number = str(place) if len(exchange) > 1 else ""
        given[f"intercompartmental_clearance{number}"] = out
        given[f"peripheral_volume{number}"] = f"{out}/{back}"
    return given


def _hybrid_two(back: str) -> dict[str, str]:
    """Arguments for the hybrid constants ALPHA and BETA and the rate constant back from the periphery."""
    elimination = f"ALPHA*BETA/({back})"
    out = f"(ALPHA+BETA-({back})-{elimination})"
    return {"clearance": elimination, "volume": "1", "intercompartmental_clearance": out,
            "peripheral_volume": f"{out}/({back})"}  # fmt: skip
