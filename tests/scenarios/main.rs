//! Scenarios with real peers, guests and faults; one test is one process under nextest.

mod standins;
