"""Example data sets and models: each model of the tutorials and benchmarks, ready to fit."""

from nlme_torch.data.examples import phenobarbital as phenobarbital
from nlme_torch.data.examples import theophylline as theophylline
from nlme_torch.examples.theophylline_models import TheophyllineClassical as TheophyllineClassical
from nlme_torch.examples.theophylline_models import TheophyllineClosedForm as TheophyllineClosedForm
from nlme_torch.examples.theophylline_models import TheophyllineFourNetworks as TheophyllineFourNetworks
from nlme_torch.examples.theophylline_models import TheophyllineHybrid as TheophyllineHybrid
