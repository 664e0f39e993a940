"""The class ``Model`` and what can be said of one: its scalars, values, summary."""
