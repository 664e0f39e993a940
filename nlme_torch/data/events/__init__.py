"""What rows are: subjects, times, kinds of events."""
