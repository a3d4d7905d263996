"""The lake: storage, tables, snapshots."""
