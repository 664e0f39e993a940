"""Every iterate of a fit by SAEM on the natural scale, and how far the last ones have drifted."""

import math

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.inference.saem.step import SAEMState
from nlme_torch.model.declare.scalars import all_scalars, omega_scalars, scalar_matrix, structural_scalars
from nlme_torch.model.declare.values import ParameterValues, parameter_values
from nlme_torch.model.density.density import Density


class Recorder:
    """Keeps every iterate on the natural scale."""

    def __init__(self, density: Density) -> None:
        self.model = density.model
        self._rows: list[Tensor] = []
        self._pending: list[ParameterValues] = []
        self.phases: list[str] = []
        self.reports: list[dict[str, float]] = []
        self.log_joint: list[Tensor] = []
        values = parameter_values(self.model)
        self.names = list(all_scalars(self.model, values))
        free = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        judged = {**structural_scalars(self.model, values), **omega_scalars(self.model, values)}
        self.judged = [self.names.index(name) for name in judged] if free else []

    def add(self, state: SAEMState, phase: str) -> None:
        """Append one iteration."""
        values = state.average if phase == "smooth" else state.values
        self._pending.append(values)
        self.phases.append(phase)
        self.reports.append({f"acceptance_{name}": rate for name, rate in state.acceptance.items()})
        self.log_joint.append(state.log_joint)

    @property
    def rows(self) -> list[Tensor]:
        """Every iterate, ``(start, scalar)``: what came since they were last asked for is converted in one go."""
        if self._pending:
            count, starts = len(self._pending), len(next(iter(self._pending[0].values())))
            several = {name: torch.cat([values[name] for values in self._pending]) for name in self._pending[0]}
            self._rows += scalar_matrix(all_scalars(self.model, several)).unflatten(0, (count, starts)).unbind(0)
            self._pending.clear()
        return self._rows

    def headline(self, state: SAEMState) -> dict[str, float]:
        """Numbers for the progress line: complete-data -2LL, acceptance and the first parameters."""
        acceptance = sum(state.acceptance.values()) / max(len(state.acceptance), 1)
        shown = {self.names[index]: float(self.rows[-1][0, index]) for index in self.judged[:3]}
        return {"-2LL(y,phi)": -2 * float(state.log_joint.max()), "accept": acceptance, **shown}

    def drift(self, window: int) -> tuple[float, str]:
        """Largest move of a parameter's mean between the last two windows, in standard deviations, and whose it is."""
        if not self.judged:
            return float("inf"), ""
        recent = torch.stack(self.rows[-2 * window :])[:, :, self.judged]
        before, after = recent[:window], recent[window:]
        spread = 0.5 * (before.var(0) + after.var(0))
        moved = (after.mean(0) - before.mean(0)).abs() / spread.sqrt().clamp_min(1e-12)
        moved = torch.where(spread > 0, moved, 0.0).amax(0)
        index = int(moved.argmax())
        return float(moved[index]), self.names[self.judged[index]]

    def frame(self, start: int, end: ParameterValues | None = None) -> pd.DataFrame:
        """Return the trace of one start as a table.

        Args:
            start: Which one.
            end: Estimates of that start after the last iteration, if they have moved since; a last row of phase
                "certify".
        """
        rows = [row[start].tolist() for row in self.rows]
        if end is not None:
            rows.append(scalar_matrix(all_scalars(self.model, end))[0].tolist())
        table = pd.DataFrame(rows, columns=self.names, dtype=float)
        table.insert(0, "iteration", range(1, len(table) + 1))
        moved = [] if end is None else ["certify"]
        table.insert(1, "phase", self.phases + moved)
        table["complete_loglik"] = [float(value[start]) for value in self.log_joint] + [math.nan for _ in moved]
        return pd.concat([table, pd.DataFrame(self.reports)], axis=1)
