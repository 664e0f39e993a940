"""From rows to records to padded tensors."""
