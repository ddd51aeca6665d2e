"""The part of Envoy's ext_authz messages that we read and write, for protobuf's C parser."""
