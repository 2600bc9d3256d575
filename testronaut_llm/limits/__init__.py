"""Limits of requests and tokens a minute and of concurrent requests, and cooldowns of models that keep failing."""
