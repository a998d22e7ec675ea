"""The engine behind OpenAI's API; see README.md."""
