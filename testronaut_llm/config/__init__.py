"""The parts of `llm.yaml`: found, read, filled in, checked, edited and trusted."""
