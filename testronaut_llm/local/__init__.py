"""Local models: Ollama's management side, embedded servers, downloads, resources, `verify` and `bench`."""
