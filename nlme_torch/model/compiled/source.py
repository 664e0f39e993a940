"""C++ text of a density program, for the driver in ``likelihood.h``."""

from collections.abc import Sequence

from nlme_torch.model.compiled.gradient import GradientProgram
from nlme_torch.model.compiled.jets import JetProgram
from nlme_torch.model.compiled.program import DensityProgram, Trace
from nlme_torch.model.compiled.split import Split
from nlme_torch.solve.kernel.emit import body
from nlme_torch.solve.kernel.layout import Layout
from nlme_torch.solve.kernel.program import Program, Ref

ALGEBRAIC, LINEAR, WALKED = range(3)


def likelihood_source(program: DensityProgram, layout: Layout | None) -> str:
    """Return a C++ file with ``evaluate``, which sums the terms of a trace over records.

    Args:
        program: What a column does.
        layout: How the walk takes the parameters of the equations; None where nothing is walked.
    """
    trace = program.trace
    equation = ALGEBRAIC if not trace.states else LINEAR if layout is None else WALKED
    after = program.parts.at_records
    lines = _head(trace, program.parts, equation)
    for index, operand in enumerate(program.terms):
        lines.append(_function(f"V term_{index}(const V *y, const V *p)", after, [("return", operand)]))
    cases = " ".join(f"if (k == {index}) return term_{index}(y, h);" for index in range(len(program.terms)))
    lines.append(f"static inline V term(int k, const V *y, const V *h) {{ {cases} return V{{}}; }}")
    lines.append(f"static const double MISSING = {'-INF' if trace.likelihood else '0.0'};")
    if equation != ALGEBRAIC:
        lines.append(_direct("void initial(const V *h, V *x)", "x[{}]", program.initial))
    if equation == LINEAR:
        lines.append(_transition(after, program))
    if layout is not None:
        lines += _parameters(program, layout)
    if program.modifiers:
        lines.append(_direct("void modifiers(const V *h, V *v)", "v[{}]", program.modifiers))
    return "\n".join([*lines, '#include "likelihood.h"', ""])


def jet_source(program: JetProgram) -> str:
    """Return a C++ file with ``jets``, for a trace without equations or with linear ones."""
    trace, after = program.trace, program.parts.at_records
    lines = _head(trace, program.parts, LINEAR if trace.states else ALGEBRAIC)
    lines.append(f"constexpr int K = {len(program.directions)}, JET = {program.length};")
    for index, jet in enumerate(program.terms):
        signature = f"void term_{index}(const V *y, const V *p, V *jet)"
        lines.append(_function(signature, after, _places("jet[{}] =", jet)))
    cases = " ".join(f"if (k == {index}) term_{index}(y, h, jet);" for index in range(len(program.terms)))
    lines.append(f"static inline void term(int k, const V *y, const V *h, V *jet) {{ {cases} }}")
    if trace.states:
        lines.append(_direct("void initial(const V *h, V *x)", "x[{}]", program.initial))
        lines.append(_transition(after, program))
    return "\n".join([*lines, '#include "jets.h"', ""])


def gradient_source(program: GradientProgram, layout: Layout | None) -> str:
    """Return a C++ file with ``gradient``, for a likelihood without equations or with equations that are walked.

    Args:
        program: The likelihood with its derivatives.
        layout: How the walk takes the parameters of the equations; None without equations.
    """
    density = program.density
    trace, parts = density.trace, density.parts
    active = sorted({position for held in program.of_held for position in held})
    if layout is not None:
        starts = [*density.initial, *(operand for entry in density.parameters for operand in entry)]
        active = sorted({*active, *(operand.index for operand in starts if isinstance(operand, Ref))})
    lines = _head(trace, parts, ALGEBRAIC if layout is None else WALKED)
    numbers = ", ".join(map(str, active)) or "0"
    lines += [
        f"constexpr int ACTIVE = {len(active)};",
        f"static const int ACTIVE_OF[] = {{{numbers}}};",
    ]
    for index, term in enumerate(density.terms):
        outputs = _places("x[{}] =", program.of_states[index])
        outputs += [(f"g[{k}] =", program.of_held[index].get(position, 0.0)) for k, position in enumerate(active)]
        signature = f"V term_{index}(const V *y, const V *p, V *x, V *g)"
        lines.append(_function(signature, program.at_records, [*outputs, ("return", term)]))
    cases = " ".join(f"if (k == {k}) return term_{k}(y, h, x, g);" for k in range(len(density.terms)))
    lines.append(f"static inline V term(int k, const V *y, const V *h, V *x, V *g) {{ {cases} return V{{}}; }}")
    signature = "void before_transposed(const V *p, const V *bar, V *e)"
    lines.append(_function(signature, program.before, _places("e[{}] =", program.of_effects)))
    if layout is not None:
        lines.append(_direct("void initial(const V *h, V *x)", "x[{}]", density.initial))
        lines += _parameters(density, layout)
        pairs = zip(density.parameters, layout.own, strict=True)
        own = [operand for entry, mine in pairs if mine for operand in entry]
        lines.append("static void held_bars(const V *x, const V *own, V *h) {")
        for name, operands in (("x", density.initial), ("own", own)):
            lines += [
                f"  h[{operand.index}] += {name}[{k}];"
                for k, operand in enumerate(operands)
                if isinstance(operand, Ref)
            ]
        lines.append("}")
    return "\n".join([*lines, '#include "gradient.h"', ""])


def _parameters(program: DensityProgram, layout: Layout) -> list[str]:
    """How many parameters the walk takes, and how they are read from what is held."""
    pairs = list(zip(program.parameters, layout.own, strict=True))
    own = [operand for entry, mine in pairs if mine for operand in entry]
    shared = [operand for entry, mine in pairs if not mine for operand in entry]
    return [
        f"constexpr int OWN = {len(own)}, SHARED = {len(shared)};",
        "static void parameters(const V *h, V *own, V *shared) {",
        *(f"  own[{k}] = {_held(operand)};" for k, operand in enumerate(own)),
        *(f"  shared[{k}] = {_held(operand)};" for k, operand in enumerate(shared)),
        "}",
    ]


def _transition(after: Program, program: DensityProgram | JetProgram) -> str:
    outputs = [*_places("e[{}] =", program.exponential), *_places("g[{}] =", program.integral)]
    outputs += _places("matrix[{}] =", program.matrix)
    inexact = program.inexact[0] if program.inexact else False
    text = body(after, [*outputs, ("V inexact =", inexact)])
    return (
        "static M transition(V elapsed, const V *p, V *e, V *g, V *matrix) {\n"
        f"  V y[READINGS + 1]; y[READINGS] = elapsed;\n{text}\n  return inexact != 0.0;\n}}"
    )


def _head(trace: Trace, parts: Split, equation: int) -> list[str]:
    """Sizes, what is read, and the first part of the program."""
    inputs = 2 * trace.effects + trace.population + trace.subjects
    return [
        '#include "columns.h"',
        f"#define EQUATION {equation}",
        f"#define MOVED {int(bool(trace.modifiers))}",
        f"#define INFUSIONS {int(bool(trace.integral))}",
        f"constexpr int EFFECTS = {trace.effects}, INPUTS = {inputs}, HELD = {len(parts.held)};",
        f"constexpr int READINGS = {trace.records}, PATTERNS = {trace.patterns}, STATES = {trace.states};",
        f"constexpr int TERMS = {len(trace.terms)}, OUTPUTS = {1 + max(output for _, output in trace.places)};",
        f"static const int PATTERN_OF[] = {{{', '.join(str(pattern) for pattern, _ in trace.places)}}};",
        f"static const int OUTPUT_OF[] = {{{', '.join(str(output) for _, output in trace.places)}}};",
        _inputs(parts.before, trace.effects, trace.population),
        _function("void before(const V *p, V *h)", parts.before, _places("h[{}] =", parts.held)),
        _readings(parts.at_records, trace.records),
    ]


def _function(signature: str, program: Program, outputs: Sequence[tuple[str, object]]) -> str:
    return f"static {signature} {{\n{body(program, outputs)}\n}}"


def _places(place: str, operands: Sequence[object]) -> list[tuple[str, object]]:
    return [(place.format(index), operand) for index, operand in enumerate(operands)]


def _direct(signature: str, place: str, operands: Sequence[object]) -> str:
    lines = (f"  {place.format(index)} = {_held(operand)};" for index, operand in enumerate(operands))
    return "\n".join([f"static {signature} {{", *lines, "}"])


def _held(operand: object) -> str:
    if isinstance(operand, Ref):
        return f"h[{operand.index}]"
    return f"all({float(operand)!r})".replace("inf", "INF").replace("nan", "NAN")  # type: ignore[arg-type]


def _used(program: Program, kind: str) -> list[int]:
    return sorted(
        int(operands[1])  # type: ignore[call-overload]
        for name, operands in program.instructions
        if name == "input" and operands[0] == kind
    )


def _inputs(program: Program, effects: int, population: int) -> str:
    lines = ["static void inputs(const ColumnData &d, const Lanes &at, const double *effects, V *p) {"]
    for index in _used(program, "own"):
        if index < effects:
            value = f"at.of_column(effects + {index} * d.columns)"
        elif index < 2 * effects:
            value = f"at.of_row(d.means + {index - effects} * d.starts * d.subjects)"
        elif index < 2 * effects + population:
            value = f"at.of_start(d.population + {index - 2 * effects} * d.starts)"
        else:
            value = f"at.of_subject(d.of_subjects + {index - 2 * effects - population} * d.subjects)"
        lines.append(f"  p[{index}] = {value};")
    return "\n".join([*lines, "}"])


def _readings(program: Program, records: int) -> str:
    lines = ["static void readings(const ColumnData &d, const Lanes &at, long r, V *y) {"]
    lines += [
        f"  y[{index}] = at.of_subject(d.of_records + (r * {records} + {index}) * d.subjects);"
        for index in _used(program, "y")
        if index < records
    ]
    return "\n".join([*lines, "}"])
