"""Tocsin beside what people would use instead: the same jobs, on one Apache Kafka, in one run."""
