"""Kafka: clients, reader, publisher, dead letters."""
