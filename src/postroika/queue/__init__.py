"""What is due, where, and with how many connections."""
