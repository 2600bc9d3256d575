"""The only package that imports LiteLLM: requests, clients, replies, and what was received."""
