"""Helpers of all parts: files, text, money, bodies of HTTP responses."""
