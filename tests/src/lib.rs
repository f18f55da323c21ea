//! Scenarios with real peers, guests and faults.
