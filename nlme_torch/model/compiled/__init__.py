"""The density of a model as one compiled program, from effects to log likelihood, for many columns at once."""
