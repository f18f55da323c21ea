//! Culvert: configuration, control core, command line.
