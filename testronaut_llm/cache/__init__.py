"""The answers that are kept on disk: their keys, the store, export and import, and one request for identical calls."""
