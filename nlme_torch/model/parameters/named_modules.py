"""Modules by names that users choose."""

from torch import nn


class NamedModules(nn.ModuleDict):
    """A dictionary of modules whose keys may be any text.

    ``nn.ModuleDict`` refuses names of its own attributes (a covariate called ``type`` or ``values``) and names with
    dots.
    """

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module
