"""The exception tree: every error the library raises on purpose is an ``NLMEError``.

A message says what is wrong, where (subject, row, column, state, parameter) and what to do about it.
"""


class NLMEError(Exception):
    """Base class of all errors raised by nlme_torch."""


class DataError(NLMEError):
    """A table cannot be read as what it claims to be; names subject, row and column."""


class ModelError(NLMEError):
    """A model is not well formed; names the state, parameter or output.

    Args:
        message: What is wrong and what to do about it.
        method: The method of the model that returned something wrong, where the message is about one.

    Attributes:
        method: The same.
        placed: Whether the message quotes the user's file and line.
    """

    def __init__(self, message: str = "", *, method: str | None = None) -> None:
        super().__init__(message)
        self.method = method
        self.placed = False


class SolveError(NLMEError):
    """A differential equation could not be solved; names subject and time."""


class FitError(NLMEError):
    """An estimation could not start or could not go on; names the subject or parameter."""
