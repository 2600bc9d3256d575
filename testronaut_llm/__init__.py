"""One door to every language model: tasks, routing, cost, cache and fallback over LiteLLM."""
