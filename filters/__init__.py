"""Floor 2: judgements: frozen thresholds over numbers; filters know only the domain."""
