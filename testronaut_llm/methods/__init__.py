"""The methods of `LLMManager` that are more than one call: batch, classify, compare, estimate, streams."""
