"""`python -m ext_authz` is `idtoken-sidecar`."""

from ext_authz.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
