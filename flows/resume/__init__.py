"""What an interrupted search or training goes on from."""
