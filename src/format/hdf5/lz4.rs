//! LZ4 blocks and frames, through the C library.
#![expect(unsafe_code, reason = "the C library is called by its address-and-length interface")]

use std::ffi::c_void;
use std::ptr;

use lz4_sys::{
    LZ4_decompress_safe, LZ4F_VERSION, LZ4F_createDecompressionContext, LZ4F_decompress, LZ4F_freeDecompressionContext, LZ4F_isError,
    LZ4FDecompressionContext, c_int,
};

/// Decodes one block; the number of bytes written, or `None` where the block is damaged or does not fit.
pub(super) fn decode(raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let (from, to) = (c_int::try_from(raw.len()).ok()?, c_int::try_from(out.len()).ok()?);
    // SAFETY: each pointer is valid for the length given with it, and the function reads and writes within them
    // whatever the bytes are.
    let written = unsafe { LZ4_decompress_safe(raw.as_ptr().cast(), out.as_mut_ptr().cast(), from, to) };
    usize::try_from(written).ok()
}

/// Decodes one frame; the number of bytes written, or `None` where it is damaged, does not end or does not fit.
pub(crate) fn decode_frame(raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut context = LZ4FDecompressionContext(ptr::null_mut());
    // SAFETY: the library writes the address of a new context, which is freed below.
    if unsafe { LZ4F_isError(LZ4F_createDecompressionContext(&mut context, LZ4F_VERSION)) } != 0 {
        return None;
    }
    let (mut read, mut written) = (0, 0);
    let done = loop {
        let (from, to) = (raw.get(read..).unwrap_or_default(), out.get_mut(written..).unwrap_or_default());
        let (mut taken, mut made) = (from.len(), to.len());
        // SAFETY: a live context, and pointers that are valid for the lengths given with them; the function reads and
        // writes within them whatever the bytes are, and says how much.
        let hint = unsafe {
            LZ4F_decompress(
                LZ4FDecompressionContext(context.0),
                to.as_mut_ptr().cast::<c_void>().cast(),
                &mut made,
                from.as_ptr().cast::<c_void>().cast(),
                &mut taken,
                ptr::null(),
            )
        };
        // SAFETY: the call only looks at a number.
        if unsafe { LZ4F_isError(hint) } != 0 {
            break None;
        }
        (read, written) = (read + taken, written + made);
        if hint == 0 {
            break Some(written);
        }
        if taken == 0 && made == 0 {
            break None;
        }
    };
    // SAFETY: the context made above, which nobody uses any more.
    unsafe { LZ4F_freeDecompressionContext(context) };
    done
}

#[cfg(test)]
mod tests {
    use super::decode;

    /// Token: 4 literals, then a match of 4 + 4; 5 literals end a block.
    const BLOCK: &[u8] = &[0x44, b'a', b'b', b'c', b'd', 4, 0, 0x50, b'v', b'w', b'x', b'y', b'z'];

    #[test]
    fn a_block_decodes() {
        let mut out = [0; 17];
        assert_eq!(decode(BLOCK, &mut out), Some(17));
        assert_eq!(&out, b"abcdabcdabcdvwxyz");
    }

    #[test]
    fn damage_is_refused() {
        assert_eq!(decode(BLOCK, &mut [0; 16]), None);
        assert_eq!(decode(&BLOCK[..9], &mut [0; 17]), None);
        assert_eq!(decode(&[], &mut [0; 17]), None);
    }
}
