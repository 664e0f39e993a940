"""Example data sets and models: each model of the tutorials and benchmarks, ready to fit."""

from nlme_torch.data.examples import phenobarbital as phenobarbital
from nlme_torch.data.examples import theophylline as theophylline
from nlme_torch.examples.phenobarbital_models import Phenobarbital as Phenobarbital
from nlme_torch.examples.phenobarbital_models import PhenobarbitalEquation as PhenobarbitalEquation
from nlme_torch.examples.theophylline_models import TheophyllineClassical as TheophyllineClassical
from nlme_torch.examples.theophylline_models import TheophyllineClosedForm as TheophyllineClosedForm
from nlme_torch.examples.theophylline_models import TheophyllineFourNetworks as TheophyllineFourNetworks
from nlme_torch.examples.theophylline_models import TheophyllineHybrid as TheophyllineHybrid
from nlme_torch.examples.viral_models import ViralDynamics as ViralDynamics
from nlme_torch.examples.viral_models import ViralNetwork as ViralNetwork
from nlme_torch.examples.warfarin_models import WarfarinTransit as WarfarinTransit
from nlme_torch.examples.warfarin_models import WarfarinTransitEquation as WarfarinTransitEquation
from nlme_torch.examples.warfarin_models import WarfarinTurnover as WarfarinTurnover
