"""An OpenAI-compatible engine with vLLM's endpoints and metrics, and a latency model for a GPU.

It stands apart: of tokenstorm it uses only the small HTTP server and what formats hosts and metrics, and nothing here
knows the load generator.
"""
