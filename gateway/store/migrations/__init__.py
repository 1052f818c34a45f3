"""Steps from one state of the tables to the next, by Alembic. Files are numbered, not hashed."""
