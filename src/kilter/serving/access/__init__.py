"""Who may call an endpoint, and who does."""
