//! LZ4 blocks, through the C library.
#![expect(unsafe_code, reason = "the C library is called by its address-and-length interface")]

use lz4_sys::{LZ4_decompress_safe, c_int};

/// Decodes one block; the number of bytes written, or `None` where the block is damaged or does not fit.
pub(super) fn decode(raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let (from, to) = (c_int::try_from(raw.len()).ok()?, c_int::try_from(out.len()).ok()?);
    // SAFETY: each pointer is valid for the length given with it, and the function reads and writes within them
    // whatever the bytes are.
    let written = unsafe { LZ4_decompress_safe(raw.as_ptr().cast(), out.as_mut_ptr().cast(), from, to) };
    usize::try_from(written).ok()
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
