"""Criteria: how important the channels of a unit are. One file a paper."""
