"""The function that reads the data, as Python code."""

from nlme_torch.data.table.columns import DATE_NAMES, NONMEM_NAMES
from nlme_torch.nonmem.outcomes import Outcome
from nlme_torch.nonmem.reading import Reading, column_names, rules
from nlme_torch.nonmem.source import Pieces
from nlme_torch.nonmem.table_columns import TableColumns, table_text

_OWN = ("ID", "TIME", "DV", "MDV", "EVID", "AMT", "RATE", "SS", "II", "ADDL", "CMT")
_PRED_OWN = ("ID", "TIME", "DV", "MDV")


def data_lines(reading: Reading, columns: TableColumns, pieces: Pieces, covariates: list[str]) -> list[str]:
    """Return the body of the function ``data``."""
    table, structure = columns.table, reading.structure
    out = []
    arguments = [f'"{" ".join(column_names(reading.inputs, reading.file))}"']
    if rules(reading.file):
        arguments.append(f"ignore={_texts(rules(reading.file))}")
    if reading.file.accept:
        arguments.append(f"accept={_texts(list(reading.file.accept))}")
    if reading.file.records is not None:
        arguments.append(f"rows={reading.file.records}")
    out.append(_call("table = read_table", ["path", *arguments]))
    if "TIME" not in reading.inputs.items:
        out.append('table["TIME"] = table.groupby("ID").cumcount().astype(float)')
    for name, text in columns.added.items():
        out.append(f'table["{name}"] = {text}')
    for item in covariates:
        if pieces.covariate[item] != item:
            out.append(f'table["{pieces.covariate[item]}"] = table["{item}"]')
    out += _compartments(reading)
    keywords = _outcome_columns(reading, pieces, columns, out)
    constant: list[str] = []
    varying: list[str] = []
    for item in covariates:
        changes = (table.groupby("ID")[item].nunique() > 1).any()
        (varying if changes else constant).append(pieces.covariate[item])
    listed = ", ".join(f'"{name}"' for name in constant)
    keywords.append(f"covariates=[{listed}]")
    if varying:
        pairs = ", ".join(f'"{name}": "nocb"' for name in varying)
        keywords.append(f"time_varying={{{pairs}}}")
    if pieces.declarations.occasion:
        keywords.append(f'occasion="{pieces.declarations.occasion}"')
    own = _PRED_OWN if structure.advan is None else _OWN
    clashing = {*NONMEM_NAMES.values(), *DATE_NAMES} - {*own, *DATE_NAMES}
    ignored = [str(name) for name in table if name in clashing and not any(f'"{name}"' in k for k in keywords)]
    if structure.advan is None:
        ignored += [str(name) for name in table if name in _OWN and name not in own and name not in ignored]
    if "CENS" in ignored and any("CENS" in line for line in out):
        ignored.remove("CENS")
    if ignored:
        keywords.append(f"ignore=[{', '.join(repr(name) for name in dict.fromkeys(ignored))}]".replace("'", '"'))
    out.append(_call("return nlme.Dataset.from_frame", ["table", *keywords]))
    return out


def _call(function: str, arguments: list[str]) -> str:
    """A call, on several lines where it is long; ``data`` itself stands four columns in."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= 110:
        return line
    inner = "".join(f"        {argument},\n" for argument in arguments)
    return f"{function}(\n{inner}    )"


def _compartments(reading: Reading) -> list[str]:
    """Compartments of doses where CMT is 0 and the default is not the first, and none on other rows."""
    table, structure = reading.table, reading.structure
    if structure.advan is None:
        return []
    if "CMT" not in table:
        return [] if structure.dosed == 1 else [f'table["CMT"] = {structure.dosed}.0']
    dose = 'table["EVID"].isin([1, 4])' if "EVID" in table else 'table["AMT"] != 0'
    if structure.dosed == 1 or not (table["CMT"][reading.dosed] == 0).any():
        return []
    return [f'table.loc[({dose}) & (table["CMT"] == 0), "CMT"] = {structure.dosed}.0']


def _outcome_columns(reading: Reading, pieces: Pieces, columns: TableColumns, out: list[str]) -> list[str]:
    """Columns that tell outcomes apart and mark censored values; keywords of the data set."""
    keywords = []
    for outcome in pieces.outcomes.values():
        if outcome.censored is not None:
            condition, limit = (table_text(columns.inlined(part)) for part in outcome.censored)
            where = " & ".join([f"({condition})", *_conditions(outcome, columns)])
            if not any('table["CENS"] = 0' in line for line in out):
                out.append('table["CENS"] = 0.0')
            out.append(f"below = {where}")
            out.append('table.loc[below, "CENS"] = 1.0')
            out.append(f'table["DV"] = np.where(below, {limit}, table["DV"])')
    if len(pieces.outcomes) > 1:
        conditions = [
            " & ".join(_conditions(outcome, columns)) or "True" for outcome in pieces.outcomes.values()
        ]  # fmt: skip
        numbers = ", ".join(str(place) for place in range(1, len(conditions) + 1))
        out.append(f'table["OUTCOME"] = np.select([{", ".join(conditions)}], [{numbers}])')
        pairs = ", ".join(f'"{name}": {place}' for place, name in enumerate(pieces.outcomes, 1))
        keywords += [f"outputs={{{pairs}}}", 'dvid="OUTCOME"']
        return keywords
    codes = sorted({f"{code:g}" for code in columns.table["CMT"][reading.observed]}) if "CMT" in columns.table else []
    if len(codes) > 1 and reading.structure.advan is not None:
        keywords += [f'outputs={{"DV": [{", ".join(codes)}]}}', 'dvid="CMT"']
    else:
        keywords.append('outputs="DV"')
    return keywords


def _conditions(outcome: Outcome, columns: TableColumns) -> list[str]:
    found = []
    for condition, holds in outcome.conditions:
        text = table_text(columns.inlined(condition))
        found.append(f"({text})" if holds else f"~({text})")
    return found


def _texts(entries: list[str]) -> str:
    listed = ", ".join(f'"{entry}"' for entry in entries)
    return listed if len(entries) == 1 else f"[{listed}]"
