"""Facts about providers that need no LiteLLM: rows, keys, endpoints, readiness."""
