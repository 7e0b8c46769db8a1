"""A small Django site: an admin, a login, a cart in the session, and an ASGI application beside it that shares all that."""
