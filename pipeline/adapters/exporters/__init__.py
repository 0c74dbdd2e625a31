"""Exporters: each writes a published version in one form that trainers read; what they share lies beside them."""
