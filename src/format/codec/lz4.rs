//! LZ4 blocks and frames, through the C library.
//!
//! Frames may have linked blocks, checksums and a content size; all of it is the library's business.
#![expect(unsafe_code, reason = "the C library is called by its address-and-length interface")]

use std::cell::RefCell;
use std::ptr;

use lz4_sys::{
    BlockChecksum, BlockMode, BlockSize, ContentChecksum, FrameType, LZ4_decompress_safe, LZ4F_VERSION, LZ4F_compressBegin,
    LZ4F_compressBound, LZ4F_compressEnd, LZ4F_compressUpdate, LZ4F_createCompressionContext, LZ4F_createDecompressionContext,
    LZ4F_decompress, LZ4F_freeCompressionContext, LZ4F_freeDecompressionContext, LZ4F_isError, LZ4F_resetDecompressionContext,
    LZ4FCompressionContext, LZ4FDecompressOptions, LZ4FDecompressionContext, LZ4FFrameInfo, LZ4FPreferences, c_int,
};

/// At the start of a frame.
pub(crate) const MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];

/// Decodes one block; the number of bytes written, or `None` where the block is damaged or does not fit.
pub(crate) fn decode_block(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    let (from, to) = (c_int::try_from(bytes.len()).ok()?, c_int::try_from(out.len()).ok()?);
    // SAFETY: each pointer is valid for the length given with it, and the function reads and writes within them
    // whatever the bytes are.
    let written = unsafe { LZ4_decompress_safe(bytes.as_ptr().cast(), out.as_mut_ptr().cast(), from, to) };
    usize::try_from(written).ok()
}

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
        let code = unsafe { LZ4F_createDecompressionContext(&mut context, LZ4F_VERSION) };
        (!failed(code) && !context.0.is_null()).then_some(Self(context))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by `LZ4F_createDecompressionContext`, not null, and used no more.
        unsafe { LZ4F_freeDecompressionContext(self.0) };
    }
}

/// How far a frame could be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes written.
    pub(crate) len: usize,
    /// Whether the frame ended there; else it is damaged, ends early or does not fit.
    pub(crate) is_whole: bool,
}

impl Frame {
    /// Its bytes if it is whole.
    pub(crate) fn whole(self) -> Option<usize> {
        self.is_whole.then_some(self.len)
    }
}

/// Decodes one frame into the front of `out`.
pub(crate) fn decode_frame(bytes: &[u8], out: &mut [u8]) -> Frame {
    thread_local!(static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) });
    DECODER.with_borrow_mut(|decoder| {
        let (mut read, mut len) = (0, 0);
        if decoder.is_none() {
            *decoder = Decoder::new();
        }
        let Some(decoder) = decoder.as_ref() else { return Frame { len, is_whole: false } };
        // SAFETY: the context is valid; whatever a damaged frame left in it is dropped.
        unsafe { LZ4F_resetDecompressionContext(decoder.0) };
        // What has been decoded is looked back at where it stands: `out` does not move.
        let options = LZ4FDecompressOptions { stable_dst: 1, reserved: [0; 3] };
        loop {
            let (from, into) = (bytes.get(read..).unwrap_or_default(), out.get_mut(len..).unwrap_or_default());
            let (mut from_len, mut into_len) = (from.len(), into.len());
            // SAFETY: source and destination are valid for the lengths given with them, which the function never
            // exceeds whatever the bytes are, and are written back as what it used. With `stable_dst` it reads what
            // it has decoded of this frame before, in front of `into`, which nobody else writes to.
            let hint =
                unsafe { LZ4F_decompress(decoder.0, into.as_mut_ptr(), &mut into_len, from.as_ptr(), &mut from_len, &raw const options) };
            if failed(hint) {
                return Frame { len, is_whole: false };
            }
            read += from_len;
            len += into_len;
            if hint == 0 || (from_len == 0 && into_len == 0) {
                return Frame { len, is_whole: hint == 0 };
            }
        }
    })
}

/// A compression context of the library's.
struct Encoder(LZ4FCompressionContext);

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: made by `LZ4F_createCompressionContext`, not null, and used no more.
        unsafe { LZ4F_freeCompressionContext(self.0) };
    }
}

/// Appends `bytes` as one frame.
pub(crate) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    /// A frame of stored blocks: what is left where the library refuses, for lack of memory.
    fn stored(bytes: &[u8], out: &mut Vec<u8>) {
        // Magic; version 1 and independent blocks; blocks of up to 4 MiB; checksum of these two bytes.
        out.extend([0x04, 0x22, 0x4D, 0x18, 0x60, 0x70, 0x73]);
        for block in bytes.chunks(4 << 20) {
            out.extend((block.len() as u32 | 1 << 31).to_le_bytes());
            out.extend(block);
        }
        out.extend([0; 4]);
    }
    let start = out.len();
    if try_encode(bytes, out).is_none() {
        out.truncate(start);
        stored(bytes, out);
    }
}

fn try_encode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut context = LZ4FCompressionContext(ptr::null_mut());
    // SAFETY: `context` is a place for the pointer that the function writes.
    let code = unsafe { LZ4F_createCompressionContext(&mut context, LZ4F_VERSION) };
    if failed(code) || context.0.is_null() {
        return None;
    }
    let encoder = Encoder(context);
    let preferences = LZ4FPreferences {
        frame_info: LZ4FFrameInfo {
            block_size_id: BlockSize::Max64KB,
            block_mode: BlockMode::Linked,
            content_checksum_flag: ContentChecksum::NoChecksum,
            frame_type: FrameType::Frame,
            content_size: 0,
            dict_id: 0,
            block_checksum_flag: BlockChecksum::NoBlockChecksum,
        },
        compression_level: 0,
        auto_flush: 1,
        favor_dec_speed: 0,
        reserved: [0; 3],
    };
    // SAFETY: only looks at its arguments.
    let bound = unsafe { LZ4F_compressBound(bytes.len(), &raw const preferences) };
    let start = out.len();
    // A frame header has at most 19 bytes.
    out.resize(start.checked_add(bound)?.checked_add(64)?, 0);
    let room = out.get_mut(start..)?;
    let mut len = 0;
    // SAFETY: each destination is valid for the length given with it, the source for its own; the context is valid.
    unsafe {
        for step in 0..3 {
            let into = room.get_mut(len..)?;
            let (pointer, room) = (into.as_mut_ptr(), into.len());
            let code = match step {
                0 => LZ4F_compressBegin(encoder.0, pointer, room, &raw const preferences),
                1 => LZ4F_compressUpdate(encoder.0, pointer, room, bytes.as_ptr(), bytes.len(), ptr::null()),
                _ => LZ4F_compressEnd(encoder.0, pointer, room, ptr::null()),
            };
            if failed(code) {
                return None;
            }
            len += code;
        }
    }
    out.truncate(start + len);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::{Frame, decode_block, decode_frame, encode};

    /// Token: 4 literals, then a match of 4 + 4; 5 literals end a block.
    const BLOCK: &[u8] = &[0x44, b'a', b'b', b'c', b'd', 4, 0, 0x50, b'v', b'w', b'x', b'y', b'z'];

    #[test]
    fn a_block_decodes() {
        let mut out = [0; 17];
        assert_eq!(decode_block(BLOCK, &mut out), Some(17));
        assert_eq!(&out, b"abcdabcdabcdvwxyz");
    }

    #[test]
    fn damage_is_refused() {
        assert_eq!(decode_block(BLOCK, &mut [0; 16]), None);
        assert_eq!(decode_block(&BLOCK[..9], &mut [0; 17]), None);
        assert_eq!(decode_block(&[], &mut [0; 17]), None);
    }

    #[test]
    fn a_frame_decodes_as_far_as_there_is_room_and_it_is_there() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at / 7 * 31 % 251) as u8).collect();
        let mut frame = Vec::new();
        encode(&bytes, &mut frame);
        for room in [bytes.len(), bytes.len() + 1, bytes.len() + (64 << 10)] {
            let mut out = vec![0; room];
            assert_eq!(decode_frame(&frame, &mut out), Frame { len: bytes.len(), is_whole: true });
            assert_eq!(out[..bytes.len()], bytes);
        }
        for (there, room) in [(frame.len(), bytes.len() - 1), (frame.len() - 5, bytes.len()), (frame.len() / 2, bytes.len()), (3, 9)] {
            let mut out = vec![0; room];
            let found = decode_frame(&frame[..there], &mut out);
            assert_eq!(found.whole(), None, "{there} {room}");
            assert_eq!(out[..found.len], bytes[..found.len]);
        }
    }
}
