"""Canonical media into what the encoders take: mel frames, patches, tubelets, and how many tokens each becomes."""
