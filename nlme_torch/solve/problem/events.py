"""What happens to the state at records: doses, infusions, resets."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Events:
    """Events that act exactly at records; each of them may be None.

    At record r, in this order: a reset restores the initial state, then the amount is added; from r to r + 1
    the rate is added to the derivative:

        y(t_r+) = (initial if resets_r else y(t_r-)) + amounts_r,    dy/dt = f(t, y, p) + rates_r on (t_r,
        t_{r+1}).

    Attributes:
        amounts: (record, state, *batch-broadcastable) [amount] added to the state.
        rates: (record, state, *batch-broadcastable) [amount / time] zero-order input until the next record;
            the last record's is never used.
        resets: (record, *batch-broadcastable) bool, True where the state starts again from its initial value.

    Example:
        >>> import torch
        >>> Events(amounts=torch.tensor([[[100.0]], [[0.0]]])).amounts.shape
        torch.Size([2, 1, 1])
    """

    amounts: Tensor | None = None
    rates: Tensor | None = None
    resets: Tensor | None = None
