"""Erasing: what is asked for is resolved to bare numbers, rewritten around, left out of a new version, and swept away.

The order is what makes it safe to kill: the journal says what goes; revisions are written beside what they replace; a
version stands on them; only then old bytes are removed, and the journal is closed when none is left.
"""
