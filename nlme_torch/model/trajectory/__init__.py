"""The states of all subjects at all records."""
