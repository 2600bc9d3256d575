"""Structured output: converts a schema for each wire, and checks and converts the answer."""
