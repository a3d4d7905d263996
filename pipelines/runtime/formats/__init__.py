"""Message formats: decoding messages into rows."""
