"""The same `llm.yaml` as a configuration of the LiteLLM proxy."""
