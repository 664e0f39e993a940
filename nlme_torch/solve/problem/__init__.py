"""Initial-value problems and what solving them returns: times, events, tolerances, failures."""
