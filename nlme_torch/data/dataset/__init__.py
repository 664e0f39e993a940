"""The data set, its description, its checks, and parts of it."""
