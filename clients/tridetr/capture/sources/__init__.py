"""Camera sources: each delivers frames as picture planes (see base.py)."""
