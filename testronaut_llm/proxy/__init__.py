"""Converts `llm.yaml` to a configuration of the LiteLLM proxy."""
