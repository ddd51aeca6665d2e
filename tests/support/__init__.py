"""The test harness: servers that record, raw clients, and programs to drive."""
