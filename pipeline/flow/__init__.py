"""Floor 2: the work itself, told in ports only."""
