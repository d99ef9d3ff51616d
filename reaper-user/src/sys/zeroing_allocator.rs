//! The allocator of the `reaperd` binary: overwrites each block with zeros before it is freed.
//!
//! The code of the daemon takes secrets out of a request before a library sees them, and wipes its own
//! buffers. This covers what that misses: a copy on the heap lasts no longer than its block. It also
//! covers the commands, whose HTTP and JSON libraries do see tokens.
#![expect(unsafe_code, reason = "the interface of an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::slice;

use zeroize::Zeroize as _;

/// The system's allocator with wiped blocks.
#[derive(Debug)]
pub struct ZeroingAllocator;

// SAFETY: all blocks are of the system's allocator, which gets the layouts that the caller gave.
unsafe impl GlobalAlloc for ZeroingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has this size, and the caller gives it up.
        let bytes: &mut [MaybeUninit<u8>] =
            unsafe { slice::from_raw_parts_mut(block.cast(), layout.size()) };
        bytes.zeroize();
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) };
    }

    // `realloc` is the provided one: a new block, a copy, and `dealloc` of the old block. That of the
    // system could leave the old bytes where they were.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grown_block_keeps_its_content() {
        let small = Layout::from_size_align(16, 8).unwrap();
        // SAFETY: the layout is not empty.
        let block = unsafe { ZeroingAllocator.alloc(small) };
        // SAFETY: the block has 16 bytes.
        unsafe { block.write_bytes(7, 16) };
        // SAFETY: the block is of this allocator and has this layout.
        let grown = unsafe { ZeroingAllocator.realloc(block, small, 4_096) };
        // SAFETY: the first 16 bytes are initialised.
        let kept = unsafe { slice::from_raw_parts(grown, 16) };
        assert_eq!(kept, [7; 16]);
        let large = Layout::from_size_align(4_096, 8).unwrap();
        // SAFETY: the block has this layout, and is not used any more.
        unsafe { ZeroingAllocator.dealloc(grown, large) };
    }
}
