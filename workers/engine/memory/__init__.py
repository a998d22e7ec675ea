"""Who owns which block, slot and row: whole numbers here, the tensors they index elsewhere."""
