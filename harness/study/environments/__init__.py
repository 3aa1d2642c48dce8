"""Where a worker runs: natively or in a container."""
