"""A model as a Pyro program."""
