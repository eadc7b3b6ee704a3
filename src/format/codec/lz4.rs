//! LZ4 frames, through the C library.
//!
//! Frames may have linked blocks, checksums and a content size; all of it is the library's business.
#![expect(unsafe_code, reason = "the C library is called by its address-and-length interface")]

use std::cell::RefCell;
use std::ptr;

use lz4_sys::{
    LZ4F_createDecompressionContext, LZ4F_decompress, LZ4F_freeDecompressionContext, LZ4F_isError, LZ4F_resetDecompressionContext,
    LZ4FDecompressOptions, LZ4FDecompressionContext,
};

/// Version of the library's frame interface.
const VERSION: u32 = 100;

fn failed(code: usize) -> bool {
    // SAFETY: only looks at the number.
    unsafe { LZ4F_isError(code) != 0 }
}

/// A decompression context of the library's.
struct Decoder(LZ4FDecompressionContext);

impl Decoder {
    fn new() -> Option<Self> {
        let mut context = LZ4FDecompressionContext(ptr::null_mut());
        // SAFETY: `context` is a place for the pointer that the function writes.
        let code = unsafe { LZ4F_createDecompressionContext(&mut context, VERSION) };
        (!failed(code) && !context.0.is_null()).then_some(Self(context))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by `LZ4F_createDecompressionContext`, not null, and used no more.
        unsafe { LZ4F_freeDecompressionContext(self.0) };
    }
}

/// Decodes one frame into `out`; gives the bytes written, fewer than there are where it is damaged or ends early.
pub(super) fn decompress(bytes: &[u8], out: &mut [u8]) -> usize {
    thread_local!(static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) });
    DECODER.with_borrow_mut(|decoder| {
        if decoder.is_none() {
            *decoder = Decoder::new();
        }
        let Some(decoder) = decoder.as_ref() else { return 0 };
        // SAFETY: the context is valid; whatever a damaged frame left in it is dropped.
        unsafe { LZ4F_resetDecompressionContext(decoder.0) };
        // What has been decoded is looked back at where it stands: `out` does not move.
        let options = LZ4FDecompressOptions { stable_dst: 1, reserved: [0; 3] };
        let (mut read, mut written) = (0, 0);
        loop {
            let (Some(from), Some(into)) = (bytes.get(read..), out.get_mut(written..)) else { return written };
            let (mut from_len, mut into_len) = (from.len(), into.len());
            // SAFETY: source and destination are valid for the lengths given with them, which the function never
            // exceeds whatever the bytes are, and are written back as what it used. With `stable_dst` it reads what
            // it has decoded of this frame before, in front of `into`, which nobody else writes to.
            let hint =
                unsafe { LZ4F_decompress(decoder.0, into.as_mut_ptr(), &mut into_len, from.as_ptr(), &mut from_len, &raw const options) };
            if failed(hint) {
                return written;
            }
            read += from_len;
            written += into_len;
            if hint == 0 || (from_len == 0 && into_len == 0) {
                return written;
            }
        }
    })
}
