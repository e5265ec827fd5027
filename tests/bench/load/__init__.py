"""What Hearth does when it has more to do than the host can: `make bench-load`."""
