"""Naive pooled estimation: every subject is the typical one."""
