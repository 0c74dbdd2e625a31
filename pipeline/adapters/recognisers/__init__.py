"""Recognisers as torch state dicts: what generators are conditioned on, and what else embeds aligned faces."""
