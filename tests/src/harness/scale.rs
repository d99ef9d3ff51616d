//! How much the long tests do: a bounded part by default, all of it with `REAPER_TEST_SCALE=full`.

/// Whether the long tests run in full.
pub fn is_full() -> bool {
    std::env::var("REAPER_TEST_SCALE").is_ok_and(|scale| scale == "full")
}

/// `full` with `REAPER_TEST_SCALE=full`, else `bounded`.
pub fn scaled<T>(full: T, bounded: T) -> T {
    if is_full() { full } else { bounded }
}
