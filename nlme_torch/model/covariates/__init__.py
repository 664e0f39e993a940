"""What subjects bring along: covariates, their levels and changes, occasions, derived quantities."""
