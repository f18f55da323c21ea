//! Batched ChaCha20-Poly1305 for packets.
