"""Coefficients of explicit Runge-Kutta pairs whose last stage is the first of the next step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tableau:
    """An explicit pair in Butcher's notation; the last row of ``stages`` is the solution.

        k_i = f(t + c_i h, y + h sum_j a_ij k_j),    y_1 = y + h sum_j a_sj k_j,    error = h sum_j e_j k_j

    Attributes:
        nodes: c_i of stages 2..s.
        stages: rows a_i of stages 2..s.
        error: e_j for all s stages.
        order: order of the solution that is propagated.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int


TSITOURAS = Tableau(
    nodes=(0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    stages=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    order=5,
)


def combine(coefficients: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Sum of coefficient times slope."""
    total = slopes[0] * coefficients[0]
    for coefficient, slope in zip(coefficients[1:], slopes[1:], strict=True):
        total = total.add(slope, alpha=coefficient)
    return total
