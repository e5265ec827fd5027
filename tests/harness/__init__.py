"""What the whole-system tests stand on: real controllers, real clients, a look at the host."""
