"""Studio: a browser page in which layouts are seen, edited and compared."""
