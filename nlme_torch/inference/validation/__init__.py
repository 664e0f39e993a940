"""How good a fit is: held-out subjects, cross-validation, comparison of models."""
