"""What moves in the compartments: doses, closed forms, rate constants, equations."""

import re

from nlme_torch.nonmem.algebra import simplified
from nlme_torch.nonmem.expressions import Binary, Element, Expression, ExpressionReader, Name, Number, rebuilt
from nlme_torch.nonmem.reading import Reading
from nlme_torch.nonmem.subroutines import CLOSED, LINEAR, SATURABLE, closed_form_arguments

_DOSING = {"ALAG": "lag", "F": "bioavailability", "R": "rate", "D": "duration"}


def dosing(reading: Reading) -> dict[int, dict[str, Expression]]:
    """Return ALAG, F, R and D of the compartments that doses go into."""
    table, structure = reading.table, reading.structure
    if structure.advan is None:
        return {}
    dosed = {structure.dosed}
    if "CMT" in table:
        dosed = {int(k) or structure.dosed for k in table["CMT"][reading.dosed]}
    found: dict[int, dict[str, Expression]] = {}
    rates = set(table["RATE"][reading.dosed]) if "RATE" in table else set()
    for k in sorted(dosed):
        for code, key in _DOSING.items():
            value = reading.program.current.get(f"{code}{k}")
            if value is None or (code == "R" and -1 not in rates) or (code == "D" and -2 not in rates):
                continue
            found.setdefault(k, {})[key] = value
    return found


def _known(reading: Reading, text: str) -> Expression:
    """An expression of variables of $PK."""

    def element(name: str, index: str) -> Expression:
        raise AssertionError(f"{name}({index})")

    def change(part: Expression) -> Expression | None:
        if not isinstance(part, Name):
            return None
        found = reading.program.current.get(part.name)
        if found is None:
            advan = f"ADVAN{reading.structure.advan} TRANS{reading.structure.trans}"
            reading.stream.refuse(
                next(reading.stream.named("PK")).line, f"$PK gives {part.name} no value, which {advan} needs"
            )
        return found

    return simplified(rebuilt(ExpressionReader(text, element).read(), change))


def closed(reading: Reading) -> tuple[str, dict[str, Expression]] | None:
    """Return the class of a closed form and its arguments; None where there is none."""
    if reading.structure.advan not in CLOSED:
        return None
    arguments = closed_form_arguments(reading.structure)
    if arguments is None:
        reading.stream.refuse(
            reading.structure.line,
            f"ADVAN{reading.structure.advan} TRANS{reading.structure.trans} cannot be converted",
        )
    kind, given = arguments
    current = reading.program.current
    if reading.structure.trans == 4 and "Q" not in current:
        for wish, instead in (("Q", "Q3" if reading.structure.advan == 4 else "Q2"),):
            given = {key: instead if text == wish and instead in current else text for key, text in given.items()}
    return kind, {key: _known(reading, text) for key, text in given.items()}


def derivatives(reading: Reading) -> list[Expression] | None:
    """Return the derivative of every compartment; None with a closed form or $PRED."""
    structure = reading.structure
    if reading.derivatives is not None:
        return reading.derivatives
    if structure.advan == SATURABLE:
        amount = Element("A", 1)
        return [_saturable(reading, amount)]
    if structure.advan in LINEAR:
        return _rate_constants(reading)
    if structure.advan is not None and structure.advan not in CLOSED:
        reading.stream.refuse(structure.line, f"ADVAN{structure.advan} needs $DES")
    return None


def _saturable(reading: Reading, amount: Element) -> Expression:
    most, half = _known(reading, "-VM"), _known(reading, "KM")
    return Binary("/", Binary("*", most, amount), Binary("+", half, amount))


def _rate_constants(reading: Reading) -> list[Expression]:
    """Flows of ADVAN5 and ADVAN7 from K12, K1T2, K20, ..."""
    count = len(reading.structure.states)
    rates: list[Expression] = [Number("0") for _ in range(count)]
    for key, rate in reading.program.current.items():
        found = re.fullmatch(r"K(\d)(\d)|K(\d+)T(\d+)", key)
        if found is None:
            continue
        source, target = int(found[1] or found[3]), int(found[2] or found[4])
        if not 1 <= source <= count or target > count + 1:
            continue
        flow = Binary("*", rate, Element("A", source))
        rates[source - 1] = Binary("-", rates[source - 1], flow)
        if 1 <= target <= count:
            rates[target - 1] = Binary("+", rates[target - 1], flow)
    return [simplified(rate) for rate in rates]
