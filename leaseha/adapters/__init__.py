"""One outside thing a file: what happens there becomes an event; nothing is decided here."""
