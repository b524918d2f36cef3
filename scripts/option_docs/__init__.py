"""What scripts/write_schema.py makes of the options: schemas for editors, and tables for people."""
