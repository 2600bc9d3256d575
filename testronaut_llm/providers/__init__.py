"""What is known about each provider before LiteLLM is loaded: rows, keys, endpoints, readiness."""
