//! What tests, `reaperd demo` and `reaperd selftest` need beside the product: processes that end as they
//! are told, the cases that every source has to pass, and faults between a source and the loop.

pub mod conformance;
#[cfg(test)]
pub(crate) mod fake_table;
pub mod fault_injection;
pub mod test_process;
