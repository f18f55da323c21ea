//! Ports, uplinks, forwarding and the worker loop.
