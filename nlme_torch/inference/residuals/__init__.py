"""Residuals of every kind, and the one table that holds them beside data, predictions and effects."""
