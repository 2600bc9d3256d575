"""Limits of requests and tokens a minute, of requests at once, and the cooldown of a model that keeps failing."""
