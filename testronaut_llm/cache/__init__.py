"""Answers stored on disk: their keys, the store, export and import, and one request for identical calls."""
