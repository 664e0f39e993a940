"""Parameters as users declare them: population and individual, transforms, covariate effects, priors."""
