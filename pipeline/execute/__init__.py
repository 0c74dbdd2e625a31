"""Floor 3: who runs the work: a whole run on any executor."""
