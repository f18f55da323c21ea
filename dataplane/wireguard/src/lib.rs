//! The WireGuard protocol, sans-IO.
