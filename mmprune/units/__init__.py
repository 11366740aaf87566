"""The units of a model."""
