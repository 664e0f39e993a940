"""What estimation hands over: a status, the bare result, and parameters as vectors and as named numbers."""
