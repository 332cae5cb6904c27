//! `casemated`, the network HSM.

fn main() {}
