"""Local stand-ins for Google's token issuers and for private Cloud Run services.

The demo, docker-compose and the tests use them: real sockets, real RS256 signatures, loopback
only. The service itself never imports this package.
"""
