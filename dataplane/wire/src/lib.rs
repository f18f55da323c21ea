//! Packet views, checksums, segmentation and coalescing.
