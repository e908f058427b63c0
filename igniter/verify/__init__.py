"""``igniter verify``: a script run straight and with stops, and what differs between the two."""
