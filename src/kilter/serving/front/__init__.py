"""The process that owns the ports: bytes enter, are taken for what they are, and leave as the protocol wants them."""
