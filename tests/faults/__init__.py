"""What RELIABILITY promises, under fire: real processes are killed, frozen, cut off and flooded."""
