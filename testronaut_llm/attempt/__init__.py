"""One attempt at one model: its request, and the judgement of its reply."""
