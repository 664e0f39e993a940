r"""Residuals of outcomes that are not continuous: Pearson's, deviance and martingale residuals, at the mode.

A count, a yes or a score with mean m and variance v has

.. math:: r_P = \frac{y - m}{\sqrt v}, \qquad
          r_D = \operatorname{sign}(y - m) \sqrt{2 \bigl(\log p_{sat}(y) - \log p(y)\bigr)}

where the saturated model has mean y (binomial: n tries, Poisson, negative binomial with the same dispersion) or gives
what was observed the probability 1 (yes or no, scores). Of the time of an event, with N events and hazard H since the
record before,

.. math:: r_M = N - H, \qquad r_D = \operatorname{sign}(r_M) \sqrt{-2 \bigl(r_M + N \log(N - r_M)\bigr)}

and H itself is the Cox-Snell residual. An interval-censored event has Pearson and deviance residuals as a yes or no.

References:
    McCullagh and Nelder (1989), Generalized Linear Models, chapter 2. doi:10.1007/978-1-4899-3242-6
    Therneau, Grambsch and Fleming (1990), Martingale-based residuals for survival models. doi:10.1093/biomet/77.1.147
    Cox and Snell (1968), A general definition of residuals. doi:10.1111/j.2517-6161.1968.tb00724.x
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Poisson

from nlme_torch._typing import Float
from nlme_torch.inference.residuals.continuous_records import is_discrete, is_event
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.observation import IntervalCensoredEvent, NegativeBinomial, OrderedCategorical, TimeToEvent

Columns = dict[str, Float[Tensor, "record subject"]]


def counted_residuals(
    conditional: Conditional, modes: Float[Tensor, "effect subject"], kinds: Mapping[str, Any]
) -> dict[str, Columns]:
    """Return the residuals of every outcome that is not continuous.

    Args:
        conditional: The model at its estimates.
        modes: Conditional modes; NaN where not known.
        kinds: Outcome to its distribution.

    Returns:
        Outcome to column (PEARSON, DEVIANCE, MARTINGALE, COX_SNELL) to ``(record, subject)``, NaN where there is no
        observation; a column that is not defined is missing.
    """
    wanted = [name for name, kind in kinds.items() if is_event(kind) or is_discrete(kind)]
    if not wanted:
        return {}
    found = torch.isfinite(modes).all(0)
    eta = torch.where(found, modes, 0.0)[:, None, None]
    results = {}
    with torch.no_grad():
        groups, solved = conditional.observations(eta)
        for records, distributions in groups:
            for name in records.values:
                if name not in wanted:
                    continue
                value = records.aligned(name)
                shape = (*records.mask.shape[:1], *eta.shape[1:])
                kind = distributions[name].expand(shape)
                columns = _of_event(kind, value) if isinstance(kind, TimeToEvent) else _of_count(kind, value)
                usable = records.mask & found & solved.expand(eta.shape[1:])[0, 0]
                results[name] = {
                    column: torch.where(usable, entries[:, 0, 0], torch.nan) for column, entries in columns.items()
                }
    return results


def _of_event(kind: TimeToEvent, value: Tensor) -> dict[str, Tensor]:
    hazard, event = kind.rise, (value == 1).to(kind.rise)
    martingale = event - hazard
    # N log(N - M) is N log H
    inside = martingale + torch.where(event > 0, torch.where(event > 0, hazard, 1.0).log(), 0.0)
    deviance = martingale.sign() * (-2 * inside).clamp_min(0).sqrt()
    return {"MARTINGALE": martingale, "COX_SNELL": hazard.expand_as(martingale), "DEVIANCE": deviance}


def _of_count(kind: Any, value: Tensor) -> dict[str, Tensor]:
    mean, variance = kind.mean, kind.variance
    columns = {"PEARSON": (value - mean) / variance.sqrt()}
    saturated = saturated_log_prob(kind, value)
    if saturated is not None:
        columns["DEVIANCE"] = (value - mean).sign() * (2 * (saturated - kind.log_prob(value))).clamp_min(0).sqrt()
    return columns


def saturated_log_prob(kind: Any, value: Tensor) -> Tensor | None:
    """Return the log probability of what was observed under a model of its own; None where there is none.

    Args:
        kind: A distribution over ``(record, *batch)``.
        value: What was observed.
    """
    if isinstance(kind, Bernoulli | OrderedCategorical | IntervalCensoredEvent):
        return torch.zeros_like(kind.mean + value)
    if isinstance(kind, Poisson):
        some = torch.where(value > 0, value, 1.0)
        return torch.where(value > 0, type(kind)(some).log_prob(some), 0.0)
    if isinstance(kind, NegativeBinomial):
        some = torch.where(value > 0, value, 1.0)
        return torch.where(value > 0, NegativeBinomial(some, kind.dispersion).log_prob(some), 0.0)
    if isinstance(kind, Binomial):
        tries = kind.total_count
        share = (value / tries).clamp(0, 1)
        ways = torch.lgamma(tries + 1) - torch.lgamma(value + 1) - torch.lgamma(tries - value + 1)
        return ways + torch.xlogy(value, share) + torch.xlogy(tries - value, 1 - share)
    return None
