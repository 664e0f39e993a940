"""Several fits in place of one: several starts, ensembles, covariate effects found afterwards."""
