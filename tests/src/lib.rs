//! What the whole-daemon tests share.
