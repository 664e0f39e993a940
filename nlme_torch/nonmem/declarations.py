"""What ``__init__`` of the model declares: parameters, effects, their covariances."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nlme_torch.nonmem.algebra import product, total
from nlme_torch.nonmem.declared import number_text, prior_text, theta_text
from nlme_torch.nonmem.expressions import Element, walk
from nlme_torch.nonmem.flow import Definition
from nlme_torch.nonmem.individual_parameters import Found, ParameterRecognition
from nlme_torch.nonmem.live import live_definitions
from nlme_torch.nonmem.naming import Namer, word_of
from nlme_torch.nonmem.values import Block


class DeclarationWriter:
    """Declares what was recognised, and everything else.

    Args:
        recognition: What was recognised; its definitions are replaced.
        namer: Gives names.
        states: Names of the compartments, which no parameter may have.
    """

    def __init__(self, recognition: ParameterRecognition, namer: Namer, states: Sequence[str]) -> None:
        self.recognition, self.namer, self.states = recognition, namer, states
        self.program, self.values, self.roots = recognition.program, recognition.values, recognition.roots
        self.priors, self.blocks = recognition.priors, recognition.blocks
        self.out = recognition.out
        self.owners: dict[int, str] = {}  # number of ETA to the parameter that has it
        self.occasion_owners: dict[int, str] = {}

    def _is_zero(self, index: int) -> bool:
        return self.recognition.is_zero(index)

    def _same(self, index: int) -> bool:
        return self.recognition.repeats(index)

    def declare(self, found: Sequence[tuple[Definition, Found]]) -> None:
        """Write the declarations."""
        lines: dict[str, str] = {}
        for definition, match in found:
            name = self._variable_name(definition.name.name)
            name = self.namer.name(f"{name}_2") if name in lines else name
            lines[name] = f"self.{name} = {self._individual_text(match)}{self._unit(match.typical)}"
            self._note_bounds(match.typical, name)
            self.owners[match.eta] = name
            for index in match.occasions:
                self.occasion_owners[index] = name
            own = Element("PARAMETER", match.eta)
            self.out.texts[own] = name
            combine = product if match.kind == "LogNormal" else total
            value = own if match.rest is None else combine([own, match.rest])
            self.program.definitions[definition.name] = replace(definition, value=value)
        live = live_definitions(self.program, self.roots)
        everything = [*self.roots, *(definition.value for definition in live)]
        used = {p for value in everything for p in walk(value) if isinstance(p, Element)}
        self._declare_thetas(used, live, lines)
        self._declare_effects(used, lines)
        self.out.lines += lines.values()

    def _note_bounds(self, index: int, name: str) -> None:
        """Say which bounds of a typical value are not kept."""
        theta = self.values.thetas[index - 1]
        kept = theta.lower in (0.0, -math.inf) and theta.upper == math.inf
        if not kept and not theta.fixed:
            self.out.notes.append(
                f"THETA({index}) ({name}): NONMEM's bounds ({theta.lower:g}, {theta.upper:g}) are not kept."
            )

    def _variable_name(self, variable: str) -> str:
        return Namer(self.states).name(variable, f"{variable}_value")

    def _unit(self, theta: int) -> str:
        comment = self.values.thetas[theta - 1].comment
        return f"  # {comment}" if comment else ""

    def _individual_text(self, match: Found) -> str:
        theta = self.values.thetas[match.typical - 1]
        typical = f"math.exp({number_text(theta.value)})" if match.on_log else number_text(theta.value)
        parts = [typical, *match.effects]
        block = self.blocks[match.eta]
        if block.size == 1:
            variance = number_text(block.matrix[0, 0])
            parts.append(f"omega=nlme.Fixed({variance})" if block.fixed else f"omega={variance}")
        if match.typical in self.priors:
            parts.append(f"prior={prior_text(*self.priors[match.typical])}")
        if theta.fixed:
            parts.append("fixed=True")
        if match.occasions:
            inner = self.blocks[match.occasions[0]]
            count = len(match.occasions)
            if inner.size == 1:
                variance = number_text(inner.matrix[0, 0])
                variance = f"nlme.Fixed({variance})" if inner.fixed else variance
                parts.append(f"occasions=nlme.Occasions({count}, omega={variance})")
            else:
                parts.append(f"occasions=nlme.Occasions({count})")
        return f"nlme.{match.kind}({', '.join(parts)})"

    def _declare_thetas(self, used: set[Element], live: Sequence[Definition], lines: dict[str, str]) -> None:
        aliases = {}
        counts = Counter(p for d in live for p in walk(d.value) if isinstance(p, Element))
        counts.update(p for root in self.roots for p in walk(root) if isinstance(p, Element))
        for definition in live:
            value = definition.value
            if isinstance(value, Element) and value.name == "THETA" and counts[value] == 1:
                aliases[value.index] = definition.name.name
        for index, theta in enumerate(self.values.thetas, 1):
            element = Element("THETA", index)
            if element not in used:
                continue
            if index in aliases:
                name = self._variable_name(aliases[index])
                self.namer.taken.add(name)
            else:
                word = theta.label or word_of(theta.comment)
                holder = next((d.name.name for d in live if element in set(walk(d.value))), "")
                wishes = [word, f"pop_{word}" if word else "", f"theta{index}"]
                name = self.namer.name(*(w for w in wishes if w)) if word or not holder else self.namer.name(
                    f"theta{index}"
                )  # fmt: skip
            self.out.texts[element] = name
            text, note = theta_text(theta, self.priors.get(index))
            if note:
                self.out.notes.append(f"THETA({index}) ({name}): {note}")
            lines[name] = f"self.{name} = {text}{self._unit(index)}"

    def _declare_effects(self, used: set[Element], lines: dict[str, str]) -> None:
        repeated: dict[int, list[Block]] = {}
        for block in self.values.omegas:
            source = block.first if block.repeats is None else block.repeats
            if self._same(block.first):
                repeated.setdefault(source, []).append(block)
                continue
            wanted = [i for i in block.effects if i in self.owners or Element("ETA", i) in used]
            if not wanted or all(self._is_zero(i) for i in block.effects):
                if not wanted:
                    self.out.notes.append(f"ETA({block.first}) has no part in the model and is left out.")
                continue
            for index in block.effects:
                if index not in self.owners and not self._is_zero(index):
                    self._declare_effect(index, block, lines)
            if block.size > 1:
                self._declare_block(block, [self.owners[i] for i in block.effects], lines, False)
        for source, blocks in repeated.items():
            first = blocks[0]
            if first.first in self.occasion_owners:
                if first.size > 1:
                    owners = [self.occasion_owners[i] for i in first.effects]
                    self._declare_block(first, owners, lines, True)
                continue
            if any(Element("ETA", i) in used for block in blocks for i in block.effects):
                self._declare_latent(source, blocks, lines)

    def _declare_effect(self, index: int, block: Block, lines: dict[str, str]) -> None:
        k = index - block.first
        word = block.labels[k] or word_of(block.comments[k])
        name = self.namer.name(*([f"eta_{word}"] if word else []), f"eta{index}")
        parts = ["0.0"]
        if block.size == 1:
            variance = number_text(block.matrix[0, 0])
            parts.append(f"omega=nlme.Fixed({variance})" if block.fixed else f"omega={variance}")
        lines[name] = f"self.{name} = nlme.Normal({', '.join([*parts, 'fixed=True'])})"
        self.owners[index] = name
        self.out.texts[Element("ETA", index)] = name

    def _declare_block(self, block: Block, owners: Sequence[str], lines: dict[str, str], occasions: bool) -> None:
        name = self.namer.name("omega_" + "_".join(o.removeprefix("eta_") for o in owners)[:40], "omega_block")
        rows = [[number_text(block.matrix[i, j]) for j in range(i + 1)] for i in range(block.size)]
        matrix = "[" + ", ".join(f"[{', '.join(row)}]" for row in rows) + "]"
        kind = "Fixed" if block.fixed else "Full"
        owned = ", ".join(f'"{owner}"' for owner in owners)
        several = ", occasions=True" if occasions else ""
        line = f"self.{name} = nlme.Omega({owned}, structure=nlme.{kind}({matrix}){several})"
        if len(line) > 110:
            inner = "".join(f"                [{', '.join(row)}],\n" for row in rows)
            line = (
                f"self.{name} = nlme.Omega(\n            {owned},\n            structure=nlme.{kind}(\n"
                f"            [\n{inner}            ]),{several.removeprefix(',')}\n        )"
            )
        lines[name] = line

    def _declare_latent(self, source: int, blocks: Sequence[Block], lines: dict[str, str]) -> None:
        """Effects of repeated blocks that are no occasions: standard normal ones times a common Cholesky factor."""
        first = blocks[0]
        if not first.matrix.any():
            for block in blocks:
                self.out.texts |= {Element("ETA", i): "0.0" for i in block.effects}
            return
        word = next((word_of(c) for c in first.comments if word_of(c)), "")
        latent = self.namer.name(*([f"z_{word}"] if word else []), f"z{source}")
        lines[latent] = f"self.{latent} = nlme.Latent({len(blocks) * first.size})"
        factor = np.linalg.cholesky(first.matrix)
        names: dict[tuple[int, int], str] = {}
        for i in range(first.size):
            for j in range(i + 1):
                base = f"sd_{word or source}" if first.size == 1 else f"factor_{word or source}_{i + 1}{j + 1}"
                names[i, j] = self.namer.name(base)
                kind = "Positive" if i == j else "Real"
                fixed = ", fixed=True" if first.fixed else ""
                lines[names[i, j]] = f"self.{names[i, j]} = nlme.{kind}({number_text(factor[i, j])}{fixed})"
        single = len(blocks) * first.size == 1
        for b, block in enumerate(blocks):
            for i, index in enumerate(block.effects):
                parts = [
                    f"p.{names[i, j]} * p.{latent}" + ("" if single else f"[{b * first.size + j}]")
                    for j in range(i + 1)
                ]
                self.out.texts[Element("ETA", index)] = "(" + " + ".join(parts) + ")"
