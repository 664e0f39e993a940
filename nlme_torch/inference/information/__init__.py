"""Information matrices: observed, sandwich, stochastic (Louis), and what single subjects contribute."""
