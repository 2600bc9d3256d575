"""The only door to LiteLLM: the request, the client, the reply, and what was really received."""
