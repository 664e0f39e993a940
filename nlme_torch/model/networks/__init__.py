"""Neural networks: shared by all subjects or with weights of their own."""
