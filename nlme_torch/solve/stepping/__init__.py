"""Steps of one-step methods, their control, and the derivatives of a solve."""
