"""Floor 2: one foreign thing per file; adapters know the domain and never each other."""
