"""facemint's pipeline: the domain, the work, the adapters and who runs it."""
