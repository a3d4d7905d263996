"""What the live page shows, without any web code: each file is one source."""
