"""Patterns combined: `Policy`, the registry of state, the journey of a call, `explain()`, lint, files."""
