"""An ext_authz service that tells Envoy which credential each destination gets."""

__version__ = "0.1.0"
