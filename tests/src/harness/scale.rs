//! How much the long tests do: a bounded part by default, all of it with `REAPER_TEST_SCALE=full`.

/// `full` with `REAPER_TEST_SCALE=full`, else `bounded`.
pub fn scaled<T>(full: T, bounded: T) -> T {
    let is_full = std::env::var("REAPER_TEST_SCALE").is_ok_and(|scale| scale == "full");
    if is_full { full } else { bounded }
}
