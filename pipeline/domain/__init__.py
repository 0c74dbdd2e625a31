"""Floor 1: pure values and mathematics; no clock, disk, network, Ray or torch."""
