"""What surrounds LiteLLM at the gateway: requests, clients, replies, evidence and provider errors."""
