"""What a person asks for: backfill, reset, reshard, inspection, preflight."""
