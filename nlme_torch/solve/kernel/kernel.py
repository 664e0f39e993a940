"""The compiled form of one vector field and of its derivatives."""

import ctypes
import functools
import logging
from dataclasses import replace

from torch import Tensor

from nlme_torch.solve.kernel.build import BuildError, build
from nlme_torch.solve.kernel.derivatives import NoDerivativeError
from nlme_torch.solve.kernel.emit import reverse_source, walk_source
from nlme_torch.solve.kernel.field import FieldProgram
from nlme_torch.solve.kernel.layout import Layout
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.tableau import Method

WORTH_HOLDING = 100  # scalars; below, a kernel of its own costs more time to compile than it saves
_log = logging.getLogger(__name__)


class Kernel:
    """Compiled drivers for one vector field and one method.

    Args:
        field: the vector field as a program.
        layout: shapes of states and parameters.
        method: what to step with.
        derived_from: the kernel whose tangent this is, if any.
        origin: the kernel that find_kernel gives out, if this one is another form of it.
    """

    def __init__(
        self,
        field: FieldProgram,
        layout: Layout,
        method: Method,
        derived_from: "Kernel | None" = None,
        origin: "Kernel | None" = None,
    ) -> None:
        self.field, self.layout, self.method, self._derived_from = field, layout, method, derived_from
        self._origin = origin or self
        self._differentiating: dict[tuple[bool, ...], Kernel] = {}

    @functools.cached_property
    def forwards(self) -> ctypes.CDLL:
        """Driver of the adaptive walk."""
        return build(walk_source(self.field, self.method))

    @functools.cached_property
    def backwards(self) -> ctypes.CDLL:
        """Driver of the replay and its transpose; where it cannot be built, the field has no compiled gradient."""
        try:
            return build(reverse_source(self.field, self.method))
        except BuildError as error:
            if self._origin.has_gradient:
                _log.warning("no compiled gradient from now on, slower tensor operations instead: %s", error)
            self._origin.has_gradient = False
            raise

    @functools.cached_property
    def has_gradient(self) -> bool:
        """Whether the field's first and second derivatives can be written out too, and none failed to compile."""
        try:
            reverse_source(self.field, self.method)
            reverse_source(self.tangent.field, self.method)
        except (NoDerivativeError, NotScalarError) as error:
            _log.warning("no compiled gradient, slower tensor operations instead: %s", error)
            return False
        return True

    @functools.cached_property
    def tangent(self) -> "Kernel":
        """The kernel of the same field with a direction: states, then their derivatives along it."""
        return Kernel(self.field.tangent(), self.layout, self.method, self, self._origin)

    @functools.cached_property
    def careful(self) -> "Kernel":
        """The kernel of the same field whose derivatives multiply with an absolute zero; it is slower."""
        if self._derived_from is not None:
            return self._derived_from.careful.tangent
        if self.field.careful:
            return self
        return Kernel(replace(self.field, careful=True), self.layout, self.method, origin=self._origin)

    def differentiating(self, parameters: tuple[Tensor, ...]) -> "Kernel":
        """The kernel whose derivatives leave out parameters without a gradient.

        While only the inputs of a network move, the derivatives in its weights are most of the work.

        Args:
            parameters: the problem's parameters.

        Returns:
            A kernel of the same field; this one where there is little to leave out.
        """
        still = tuple(not value.requires_grad for value in parameters)
        if still not in self._differentiating:
            held = self.layout.places(still)
            other = Kernel(replace(self.field, held=held), self.layout, self.method, origin=self._origin)
            self._differentiating[still] = self if len(held) < WORTH_HOLDING else other
        return self._differentiating[still]
