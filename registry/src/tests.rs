//! Model tests of the registry.
