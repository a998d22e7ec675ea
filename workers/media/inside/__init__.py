"""What runs in the child: each module has `run(source, params)`, a generator of messages."""
