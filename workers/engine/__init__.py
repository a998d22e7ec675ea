"""Media and messages in, tokens out: Nemotron 3 Nano Omni in our own code. Knows no job, row or queue."""
