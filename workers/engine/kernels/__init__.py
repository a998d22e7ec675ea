"""Operations on tensors, one a file: `op`, and `op_ref` in plain torch. Imports nothing of ours, knows no model."""
