//! The test is the service manager: it keeps the descriptors that the daemon stores, and passes them to
//! the next one after monitor and worker were killed.
