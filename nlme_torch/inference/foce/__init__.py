"""The methods that maximise an approximation: FO, FOCE, FOCEI, Laplace, quadrature."""
