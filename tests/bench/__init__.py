"""What Hearth costs on this host: `make bench`."""
