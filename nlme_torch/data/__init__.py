"""Tables of what was observed and given: reading, checking, and turning them into padded tensors."""

from nlme_torch.data import examples as examples
from nlme_torch.data.dataset.checks import check_frame as check_frame
from nlme_torch.data.dataset.dataset import Dataset as Dataset
from nlme_torch.data.dataset.describe import Description as Description
from nlme_torch.data.dataset.simulated import with_outcomes as with_outcomes
from nlme_torch.data.design.regimen import Regimen as Regimen
from nlme_torch.data.dosing.doses import DoseKind as DoseKind
from nlme_torch.data.dosing.doses import Doses as Doses
from nlme_torch.data.events.events import Event as Event
from nlme_torch.data.examples import phenobarbital as phenobarbital
from nlme_torch.data.examples import theophylline as theophylline
from nlme_torch.data.records.batch import Batch as Batch
from nlme_torch.data.records.batch import Outcome as Outcome
from nlme_torch.data.table.columns import Interpolation as Interpolation
