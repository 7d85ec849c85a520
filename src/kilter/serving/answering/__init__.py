"""One endpoint: rows enter, are routed to versions and batched, and leave as answers with what goes on record."""
