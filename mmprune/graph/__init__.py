"""Which channels live and die together."""
