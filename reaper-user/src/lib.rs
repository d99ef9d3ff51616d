//! reaperd as a library.
