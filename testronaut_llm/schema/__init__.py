"""Structured output: a caller's schema to what each wire takes, and an answer back, checked against the schema."""
