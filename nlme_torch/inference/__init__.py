"""Estimation: one entry point, one file per method, and the result."""

from nlme_torch.inference.fit import fit as fit
from nlme_torch.inference.likelihood import AnnealedImportanceSampling as AnnealedImportanceSampling
from nlme_torch.inference.likelihood import ImportanceSampling as ImportanceSampling
from nlme_torch.inference.likelihood import LaplaceLikelihood as LaplaceLikelihood
from nlme_torch.inference.likelihood import LogLikelihood as LogLikelihood
from nlme_torch.inference.likelihood import QuadratureLikelihood as QuadratureLikelihood
from nlme_torch.inference.likelihood import loglik as loglik
from nlme_torch.inference.pooled import Pooled as Pooled
from nlme_torch.inference.result import Fit as Fit
from nlme_torch.inference.saem import SAEM as SAEM
from nlme_torch.inference.saem_kernels import Moves as Moves
from nlme_torch.inference.saving import load as load
from nlme_torch.inference.schedule import StepSchedule as StepSchedule
