"""The gateway for services on the user's machine: what the orchestrator offers, wherever it runs."""
