"""What a model is put through before it is relied on: verification and measurement."""
