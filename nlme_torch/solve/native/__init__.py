"""Vector fields as compiled code: traced to arithmetic on rows, differentiated, written as C++, built once and cached."""

from .columns import Layout as Layout
from .columns import guess_layouts as guess_layouts
from .kernels import Kernel as Kernel
from .kernels import find_kernel as find_kernel
from .kernels import run as run
