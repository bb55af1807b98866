"""Camera sources: each yields decoded frames as planes (see base.py)."""
