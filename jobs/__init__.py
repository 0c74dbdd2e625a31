"""Floor 4: entry points: wiring, command line, shipped recipes."""
