"""The parts of rate limiting: rules, windows, what headers say, and the circuit breaker."""
