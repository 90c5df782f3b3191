"""What an operator runs beside the server: checks, collection, backup, import."""
