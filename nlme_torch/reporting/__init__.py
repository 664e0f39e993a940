"""A fit as one page that needs nothing else: tables, pictures, settings, warnings, versions and the model's code."""

from nlme_torch.reporting.page import report as report
