"""Coefficients of one-step methods."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tableau:
    """An explicit pair in Butcher's notation; the last row of ``stages`` is the solution.

        k_i = f(t + c_i h, y + h sum_j a_ij k_j),    y_1 = y + h sum_j a_sj k_j,    error = h sum_j e_j k_j

    The last stage is the first one of the next step.

    Attributes:
        nodes: c_i of stages 2..s.
        stages: rows a_i of stages 2..s.
        error: e_j for all s stages; empty where steps are fixed.
        order: order of the solution that is propagated.
        limit: length of the stability region along the negative real axis.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int
    limit: float


@dataclass(frozen=True)
class RosenbrockTableau:
    """A linearly implicit pair that is stiffly accurate; the last stage is the error estimate.

        (I / (gamma h) - f_y) k_i = f(t + c_i h, y + sum_j a_ij k_j) + sum_j C_ij k_j / h + h d_i f_t
        y_1 = y + sum_j a_sj k_j + k_s,    error = k_s

    with f_y and f_t at the start of the step.

    Attributes:
        gamma: the diagonal coefficient.
        nodes: c_i of all stages.
        slants: d_i of all stages, factors of f_t.
        stages: rows a_i of stages 2..s.
        couplings: rows C_i of stages 2..s.
        order: order of the solution that is propagated.
    """

    gamma: float
    nodes: tuple[float, ...]
    slants: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    couplings: tuple[tuple[float, ...], ...]
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
    limit=3.5,
)

KUTTA = Tableau(
    nodes=(0.5, 0.5, 1.0, 1.0),
    stages=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    error=(),
    order=4,
    limit=2.785,
)

# the last stages and the weights of Rodas5P begin alike
_RODAS_LAST = (
    -7.502846399306121,
    2.561846144803919,
    -11.627539656261098,
    -0.18268767659942256,
    0.030198172008377946,
)

RODAS5P = RosenbrockTableau(
    gamma=0.21193756319429014,
    nodes=(
        0.0,
        0.6358126895828704,
        0.4095798393397535,
        0.9769306725060716,
        0.4288403609558664,
        1.0,
        1.0,
        1.0,
    ),
    slants=(
        0.21193756319429014,
        -0.42387512638858027,
        -0.3384627126235924,
        1.8046452872882734,
        2.325825639765069,
        0.0,
        0.0,
        0.0,
    ),
    stages=(
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        _RODAS_LAST,
        (*_RODAS_LAST, 1.0),
        (*_RODAS_LAST, 1.0, 1.0),
    ),
    couplings=(
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
        (
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ),
        (
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ),
    ),
    order=5,
)


@dataclass(frozen=True)
class Method:
    """What a solver steps with: an explicit pair, a linearly implicit one, or both as stiffness requires."""

    explicit: Tableau | None
    implicit: RosenbrockTableau | None


def combine(coefficients: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Sum of coefficient times slope."""
    total = slopes[0] * coefficients[0]
    for coefficient, slope in zip(coefficients[1:], slopes[1:], strict=True):
        total = total.add(slope, alpha=coefficient)
    return total
