"""What a Python process under libfaketime starts with; see `hormesis.chaos.host.clock`."""
