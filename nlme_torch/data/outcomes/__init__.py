"""Observations: outputs, censoring, limits of quantification."""
