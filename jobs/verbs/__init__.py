"""Verbs with a file of their own; `jobs.cli` gives each its name. Heavy imports happen inside a verb."""
