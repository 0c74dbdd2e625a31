"""Hard-condition twins: an accepted face once more, covered or degraded, from its stored pixels."""
