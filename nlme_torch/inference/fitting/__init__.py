"""The entry points ``fit`` and ``ofv``, stages, the ``Fit`` they return, its tables, and fits on disk."""
