"""Factorisations in batches, which no statistics enters."""
