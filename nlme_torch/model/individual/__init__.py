"""What user code sees of one subject."""
