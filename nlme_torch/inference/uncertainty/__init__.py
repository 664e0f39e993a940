"""Standard errors, profile likelihood, bootstrap, sampling importance resampling."""
