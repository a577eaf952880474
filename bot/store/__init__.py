"""The store: SQLModel tables, the one writer, queries, migrations."""
