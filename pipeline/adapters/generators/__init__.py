"""Published generators behind the `Generator` port: one foreign model, one file or folder, each."""
