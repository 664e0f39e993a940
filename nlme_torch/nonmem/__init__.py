"""From NONMEM: control streams as models, data sets and methods.

NM-TRAN's code is read by a grammar of its own (``expressions``, ``statements``), run once with expressions in place of
numbers (``flow``), and written as a Python file (``writing``), which is then executed: what ``from_nonmem`` returns and
what ``python -m nlme_torch convert`` writes are the same.
"""

from nlme_torch.nonmem.conversion import Conversion as Conversion
from nlme_torch.nonmem.conversion import from_nonmem as from_nonmem
from nlme_torch.nonmem.likelihood import Likelihood as Likelihood
from nlme_torch.nonmem.table import read_table as read_table
