"""How a search or an estimation ended, as a type: code asks for it, sentences are for readers."""

from enum import Enum


class Status(Enum):
    """How a minimisation, an estimation or a fit ended; the value is what it means for the reader.

    Attributes:
        CONVERGED: The method's own criterion of a maximum was met.
        ITERATIONS_USED: All iterations were used before the criterion was met.
        STALLED: No further progress was possible although the criterion was not met.
        INTERRUPTED: The user stopped it; what stands is the best that was seen.
        UNBOUNDED: The likelihood grows without end as a parameter runs to zero or to infinity: there is no maximum.
        SINGULAR: The approximation of the likelihood ends where a subject's Hessian becomes singular, and falls without
            bound towards there although the likelihood does not.
        COMPLETED: A method that takes a given number of steps and judges nothing took them.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> fit.status.name, fit.converged
        ('CONVERGED', True)
    """

    CONVERGED = "converged"
    ITERATIONS_USED = "all iterations were used; allow more of them, or begin at these estimates"
    STALLED = "no further progress was possible; begin elsewhere, or choose another method"
    INTERRUPTED = "interrupted; these are the best values seen, not a maximum"
    UNBOUNDED = "the likelihood grows without bound; fix the parameter that runs away, or begin elsewhere"
    SINGULAR = "Laplace's approximation ends here, where a subject's Hessian becomes singular; choose another method"
    COMPLETED = "all steps were taken; whether this is a maximum was not judged"
