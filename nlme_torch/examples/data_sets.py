"""Example data that come with the package."""

from importlib.resources import files

import pandas as pd

from nlme_torch.data.dataset.dataset import Dataset


def theophylline() -> Dataset:
    """Theophylline concentrations of 12 subjects over 24 h after one oral dose: 132 observations.

    Columns: ``Time`` (h), ``conc`` (mg/L, the output), ``Wt`` (kg) and ``Dose`` (mg/kg) as covariates: the
    amount given at time 0 is Wt·Dose mg. The first sample is taken just before the dose; subjects 1, 7 and 10
    have a measurable concentration there.

    References:
        Boeckmann, A. J., Sheiner, L. B. and Beal, S. L. (1994), NONMEM Users Guide: Part V, University of
        California, San Francisco; distributed with R as ``datasets::Theoph``.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.theophylline()
        Dataset of 12 subjects, 132 rows
          observations  conc 132
          covariates    Wt, Dose
    """
    return Dataset.from_frame(
        _read("theophylline.csv"), id="Subject", time="Time", outputs="conc", covariates=("Wt", "Dose")
    )


def phenobarbital() -> Dataset:
    """Phenobarbital concentrations of 59 newborn infants under repeated intravenous doses: 155 observations.

    Columns: ``TIME`` (h), ``AMT`` (ug/kg as published), ``DV`` (the output), ``WT`` (birth weight, kg) and
    ``APGR`` (5-minute Apgar score) as covariates.

    References:
        Grasela, T. H. and Donn, S. M. (1985), Neonatal population pharmacokinetics of phenobarbital derived
        from routine clinical data, Dev. Pharmacol. Ther. 8, 374-383. doi:10.1159/000457062; distributed with
        R as ``nlme::Phenobarb``.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.phenobarbital()
        Dataset of 59 subjects, 744 rows
          observations  DV 155
          doses         589 rows
          covariates    WT, APGR
    """
    return Dataset.from_frame(_read("phenobarbital.csv"), covariates=("WT", "APGR"))


def _read(name: str) -> pd.DataFrame:
    with files("nlme_torch.examples").joinpath("bundled", name).open() as file:
        return pd.read_csv(file)
