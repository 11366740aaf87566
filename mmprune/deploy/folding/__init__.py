"""Norms of a cut stream at the price of plain ones, in a copy for deployment."""
