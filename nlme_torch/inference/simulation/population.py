"""Who is simulated: the subjects of a data set, more subjects drawn from them, or new ones under a regimen."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch.distributions import Distribution

from nlme_torch.data import Dataset, Regimen
from nlme_torch.data.dataset.resampled import covariate_lines, resampled
from nlme_torch.errors import DataError


def population(
    design: Any,
    times: Any,
    subjects: int | None,
    covariates: Any,
    outputs: Sequence[str] | None,
    generator: torch.Generator,
) -> Dataset:
    """Return the design of a simulation.

    Args:
        design: A data set, or the regimen of new subjects.
        times: When to look at new subjects.
        subjects: How many. Those of a data set are drawn with replacement, all rows of a subject together, and so are
            the lines of a table of covariates.
        covariates: Of new subjects: a table with a line for each, a data set whose subjects' first rows are meant, or
            by name a value, one for each subject, or a distribution.
        outputs: Names of what is observed in new subjects; None where nobody knows.
        generator: Source of randomness.

    Raises:
        DataError: The parts do not fit together.
    """
    if subjects is not None and (not isinstance(subjects, int) or isinstance(subjects, bool) or subjects < 1):
        raise DataError(f"simulate: subjects must be a whole number of 1 or more, got {subjects!r}.")
    if isinstance(design, Dataset):
        if times is not None or covariates is not None:
            raise DataError(
                "simulate: times= and covariates= are those of new subjects under a regimen; a data set has its own "
                "(data.with_regimen(regimen, times) gives its subjects other ones)."
            )
        if subjects is None:
            return design
        return resampled(design, torch.randint(design.n_subjects, (subjects,), generator=generator).tolist())
    if not isinstance(design, Regimen):
        raise DataError(
            f"simulate: a data set or a regimen is needed and a {type(design).__name__} was given; write "
            "nlme.Dataset.from_frame(frame), or nlme.Regimen(amount) with times=."
        )
    if times is None:
        raise DataError("simulate: say when to look at subjects under a regimen: times=[...].")
    if outputs is None:
        raise DataError(
            "simulate: what a model observes is not known before it meets data; give a fit, or "
            "nlme.Dataset.from_regimen(regimen, times, outputs=...)."
        )
    lines, count = _lines(covariates, subjects, generator)
    return Dataset.from_regimen(design, times, subjects=count, covariates=lines, outputs=outputs)


def _lines(covariates: Any, subjects: int | None, generator: torch.Generator) -> tuple[Any, int]:
    """Covariates of new subjects, and their number."""
    if isinstance(covariates, Dataset):
        covariates = covariate_lines(covariates)
    if isinstance(covariates, pd.DataFrame):
        if not len(covariates):
            raise DataError("simulate: the table of covariates has no line.")
        if subjects is not None and subjects != len(covariates):
            covariates = covariates.iloc[torch.randint(len(covariates), (subjects,), generator=generator).tolist()]
        return covariates.set_axis(pd.RangeIndex(1, len(covariates) + 1)), len(covariates)
    count = 1 if subjects is None else subjects
    if not isinstance(covariates, Mapping):
        return covariates, count
    given = {}
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        for name, value in covariates.items():
            given[name] = value.sample((count,)).tolist() if isinstance(value, Distribution) else value
        generator.set_state(torch.get_rng_state())
    return given, count
