"""Finds, reads, fills in, checks, edits and trusts `llm.yaml`."""
