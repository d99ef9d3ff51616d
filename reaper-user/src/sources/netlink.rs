//! Stub.
use super::{Context, SourceError};
use std::convert::Infallible;
pub async fn run(_context: Context) -> Result<Infallible, SourceError> {
    Err(SourceError::new("not built yet", ""))
}
