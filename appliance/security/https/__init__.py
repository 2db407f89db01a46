"""HTTPS in a home: the engine's own certificate authority, and the certificate that it gives its gateway."""
