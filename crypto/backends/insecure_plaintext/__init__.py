"""A secure sum without secrecy (docs/protocol.md, section 8)."""
