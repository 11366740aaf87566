"""Schedules: when a run scores channels, and when it cuts them. Each is a hook of the Runner."""
