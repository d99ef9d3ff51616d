//! Every repeated developer action.
fn main() {}
